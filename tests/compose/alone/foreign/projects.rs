//! The projects, and what a person does to each: which line is changed for a new version, and what has to come of it.

/// An ordinary Compose project in a folder beside this file.
#[derive(Clone, Copy)]
pub struct Foreign {
    /// Its folder; the project's name, as Compose takes it.
    pub name: &'static str,
    /// How a new version is asked for: the file, what stands there, what is written instead.
    pub edit: (&'static str, &'static str, &'static str),
    /// The services that are new then. All others have to be left alone.
    pub changes: &'static [&'static str],
    /// Services that end by themselves, once in each roll.
    pub jobs: &'static [&'static str],
    /// What holds data: a service, and where.
    pub holds: &'static [(&'static str, &'static str)],
    /// A port of the host that answers, and whether that has to be so at every moment of a roll.
    pub serves: Option<(u16, Serves)>,
    /// What the plan has to say, beside who is away.
    pub told: &'static [&'static str],
    /// What the plan says to restart afterwards, because it found others by address when it started.
    pub restart: Option<&'static str>,
    /// Whether its images are built, from what the edit changes.
    pub builds: bool,
}

/// What may be asked of a port while its project is rolled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Nothing behind it may ever be away.
    Always,
    /// This service behind it always has an instance: the plan promises that. Which one is found is a matter of names.
    Again(&'static str),
    /// Whatever has the port is made anew: the plan has to say so.
    ButFor(&'static str),
}

const NOTHING: Foreign = Foreign {
    name: "",
    edit: ("", "", ""),
    changes: &[],
    jobs: &[],
    holds: &[],
    serves: None,
    told: &[],
    restart: None,
    builds: false,
};

const POSTGRES: (&str, &str) = ("postgres", "/var/lib/postgresql/data");

/// All of them.
pub const PROJECTS: &[Foreign] = &[
    Foreign {
        name: "big",
        edit: (".env", "2.7.0", "2.8.0"),
        changes: &[
            "migrate", "accounts", "sessions", "catalog", "prices", "stock", "orders", "payments", "shipping",
            "invoices", "search", "reviews", "mailer", "reports", "api",
        ],
        jobs: &["migrate"],
        holds: &[POSTGRES],
        serves: Some((8113, Serves::Again("api"))),
        ..NOTHING
    },
    Foreign {
        name: "kestra",
        edit: ("docker-compose.yml", "kestra/kestra:v0.20.6", "kestra/kestra:v0.20.7"),
        changes: &["kestra-scheduler", "kestra-worker", "kestra-executor", "kestra-webserver"],
        holds: &[POSTGRES],
        serves: Some((8080, Serves::ButFor("kestra-webserver"))),
        told: &[
            "image kestra/kestra:v0.20.6 -> kestra/kestra:v0.20.7",
            "stop-first, because its 2 containers take every port of 8082-8083 on the host",
        ],
        ..NOTHING
    },
    Foreign {
        name: "celery",
        edit: (".env", "2024-10-01", "2024-11-15"),
        changes: &["web", "beat", "worker-default", "worker-mail"],
        holds: &[("redis", "/data")],
        serves: Some((8105, Serves::ButFor("web"))),
        told: &["stop-first, because port 8105 of the host", "`baton restart flower`"],
        ..NOTHING
    },
    Foreign {
        name: "shop",
        edit: ("docker-compose.yml", ":2.0.1", ":2.1.0"),
        changes: &["migrate", "api", "storefront"],
        jobs: &["migrate"],
        holds: &[POSTGRES, ("redis", "/data")],
        serves: Some((8102, Serves::ButFor("storefront"))),
        told: &["staged: this roll runs a job"],
        ..NOTHING
    },
    Foreign {
        name: "blog",
        edit: (".env", "1.4.0", "1.5.0"),
        changes: &["web", "worker"],
        holds: &[("db", POSTGRES.1)],
        serves: Some((8101, Serves::ButFor("web"))),
        ..NOTHING
    },
    Foreign {
        name: "replicas",
        edit: (".env", "TAG=v1", "TAG=v2"),
        changes: &["api", "consumer"],
        serves: Some((8103, Serves::Again("api"))),
        ..NOTHING
    },
    Foreign { name: "profiles", edit: (".env", "3.1", "3.2"), changes: &["core", "exporter"], ..NOTHING },
    Foreign {
        name: "front",
        edit: ("compose.yaml", "2024.10", "2024.11"),
        changes: &["app"],
        serves: Some((8104, Serves::ButFor("app"))),
        told: &["stop-first, because old and new would both write to the volume", "`baton restart nginx`"],
        restart: Some("nginx"),
        ..NOTHING
    },
    Foreign {
        name: "layers",
        edit: ("common.yml", "acme/wiki:5", "acme/wiki:6"),
        changes: &["wiki", "indexer"],
        serves: Some((8106, Serves::ButFor("wiki"))),
        ..NOTHING
    },
    Foreign {
        name: "volumes",
        edit: (".env", "PG=16.3", "PG=16.4\nMYSQL_MINOR=4"),
        changes: &["mysql", "postgres"],
        holds: &[POSTGRES, ("mysql", "/var/lib/mysql"), ("uploads", "/data")],
        told: &["the image's volume at /var/lib/mysql"],
        ..NOTHING
    },
    Foreign {
        name: "ports",
        edit: ("compose.yaml", "v2.51.0", "v2.52.0"),
        changes: &["prometheus"],
        holds: &[("prometheus", "/prometheus")],
        serves: Some((9090, Serves::ButFor("prometheus"))),
        ..NOTHING
    },
    Foreign {
        name: "named",
        edit: ("docker-compose.yml", ":1.21", ":1.22"),
        changes: &["gitea", "gitea-runner"],
        holds: &[("gitea-db", POSTGRES.1), ("gitea", "/data")],
        serves: Some((8107, Serves::ButFor("gitea"))),
        told: &["its `container_name` is gitea"],
        ..NOTHING
    },
    Foreign {
        name: "networks",
        edit: ("compose.yaml", "parcel:7.0", "parcel:7.1"),
        changes: &["api", "tracker"],
        serves: Some((8108, Serves::Again("api"))),
        ..NOTHING
    },
    Foreign {
        name: "secrets",
        edit: (".env", "VAULT_VERSION=1.0", "VAULT_VERSION=1.1"),
        changes: &["vault", "audit"],
        serves: Some((8109, Serves::ButFor("vault"))),
        ..NOTHING
    },
    Foreign {
        name: "built",
        edit: ("app.txt", "release 1", "release 2"),
        changes: &["web", "worker"],
        holds: &[("db", POSTGRES.1)],
        serves: Some((8110, Serves::ButFor("web"))),
        builds: true,
        told: &["image id changed"],
        ..NOTHING
    },
    Foreign {
        name: "always",
        edit: (".env", "VERSION=11", "VERSION=12"),
        changes: &["api", "scheduler", "worker", "sweeper"],
        ..NOTHING
    },
    Foreign {
        name: "sidecar",
        edit: (".env", "PROXY=1.30", "PROXY=1.31"),
        changes: &["envoy"],
        serves: Some((8111, Serves::Always)),
        told: &["stop-first, because it is on the network of another container"],
        ..NOTHING
    },
    Foreign {
        name: "vpn",
        edit: (".env", "3.38", "3.39"),
        changes: &["gluetun", "torrent"],
        serves: Some((8112, Serves::ButFor("gluetun"))),
        ..NOTHING
    },
];
