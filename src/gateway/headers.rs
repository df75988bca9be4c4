//! What a proxy has to change in a head: fields that belong to one connection go, who asked is added.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Method, StatusCode, Version};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Fields of one connection (RFC 9110, 7.6.1, and what older peers still send). `trailer` is not among them: trailers
/// are passed on.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Why a request is refused before any target sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) why: &'static str,
}

/// The protocol that the sender of this head wants to go over to, or goes over to.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(header::UPGRADE)?;
    // `h2c` is between a client and the one it talks to: passed on, it would let requests go by unseen.
    let named = tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    (named && !wanted.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| wanted.clone())
}

/// Is this the protocol whose frames are understood?
pub(super) fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// Removes what belongs to the connection that the head came on.
fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        // Whom the request is for and how long it is belongs to the request, whatever a sender claims.
        let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
            .filter_map(|token| token.parse().ok())
            .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn go_over(headers: &mut HeaderMap, protocol: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol.clone());
}

/// Makes a client's head into the one for a target. `upgrade`: the protocol it wants to go over to.
///
/// # Errors
/// When the request is not one that a proxy may pass on.
pub(super) fn request(parts: &mut Parts, peer: IpAddr, upgrade: Option<&HeaderValue>) -> Result<(), Refused> {
    if parts.method == Method::CONNECT {
        return Err(Refused { status: StatusCode::METHOD_NOT_ALLOWED, why: "this is not a forward proxy" });
    }
    let headers = &mut parts.headers;
    if let Some(authority) = parts.uri.authority() {
        // The absolute form wins over the Host field (RFC 9112, 3.2.2).
        let host = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
        let host = HeaderValue::from_str(host)
            .map_err(|_| Refused { status: StatusCode::BAD_REQUEST, why: "the target's host is not a valid field" })?;
        headers.insert(header::HOST, host);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next().cloned(), hosts.next().is_some());
    if another || (host.is_none() && parts.version == Version::HTTP_11) {
        return Err(Refused { status: StatusCode::BAD_REQUEST, why: "a request has exactly one Host field" });
    }
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from(path);
    parts.version = Version::HTTP_11;

    if headers.contains_key(header::TRANSFER_ENCODING) {
        // Two lengths are one too many: the chunks tell where the body ends.
        headers.remove(header::CONTENT_LENGTH);
    }
    let trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    strip(headers);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // Answered here, as soon as the body is asked for.
    headers.remove(header::EXPECT);
    if let Some(protocol) = upgrade {
        go_over(headers, protocol);
    }

    append(headers, FORWARDED_FOR, &peer.to_string());
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    match host {
        Some(host) if !headers.contains_key(FORWARDED_HOST) => {
            headers.insert(FORWARDED_HOST, host);
        }
        Some(_) => {}
        // HTTP/1.0 knows no Host; 1.1 wants one, and an empty one says that there is none.
        None => {
            headers.insert(header::HOST, HeaderValue::from_static(""));
        }
    }
    Ok(())
}

/// Adds one more to a list, in one field: some servers only read the first.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    let mut list: Vec<u8> = Vec::new();
    for before in headers.get_all(&name) {
        list.extend_from_slice(before.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(value.as_bytes());
    if let Ok(list) = HeaderValue::from_bytes(&list) {
        headers.insert(name, list);
    }
}

/// Makes a target's head into the one for a client.
pub(super) fn response(parts: &mut http::response::Parts) {
    let protocol = (parts.status == StatusCode::SWITCHING_PROTOCOLS).then(|| upgrade(&parts.headers)).flatten();
    if parts.headers.contains_key(header::TRANSFER_ENCODING) {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    strip(&mut parts.headers);
    if let Some(protocol) = protocol {
        go_over(&mut parts.headers, &protocol);
    }
    // What the client's connection speaks is decided by the client's request.
    parts.version = Version::HTTP_11;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().version(version).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn fields(headers: &HeaderMap) -> Vec<String> {
        let mut all: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
        all.sort();
        all
    }

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    #[test]
    fn fields_of_one_connection_are_not_passed_on() {
        let mut parts = head(
            Version::HTTP_11,
            "/a?b=c",
            &[
                ("host", "shop"),
                ("connection", "keep-alive, X-Mine, Host"),
                ("x-mine", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-authorization", "secret"),
                ("te", "gzip, trailers"),
                ("transfer-encoding", "chunked"),
                ("content-length", "3"),
                ("upgrade", "websocket"),
                ("expect", "100-continue"),
                ("accept", "*/*"),
            ],
        );
        request(&mut parts, PEER, None).expect("passed on");
        assert_eq!(parts.uri, "/a?b=c");
        assert_eq!(
            fields(&parts.headers),
            [
                "accept: */*",
                "host: shop",
                "te: trailers",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: shop",
                "x-forwarded-proto: http"
            ]
        );
    }

    #[test]
    fn who_asked_is_appended_to_what_proxies_before_said() {
        let mut parts = head(
            Version::HTTP_11,
            "http://user@shop:81/a",
            &[
                ("host", "other"),
                ("x-forwarded-for", "198.51.100.1"),
                ("x-forwarded-for", "198.51.100.2"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "shop.example"),
            ],
        );
        request(&mut parts, PEER, None).expect("passed on");
        assert_eq!(parts.uri, "/a");
        assert_eq!(
            fields(&parts.headers),
            [
                "host: shop:81",
                "x-forwarded-for: 198.51.100.1, 198.51.100.2, 192.0.2.7",
                "x-forwarded-host: shop.example",
                "x-forwarded-proto: https"
            ]
        );
    }

    #[test]
    fn an_upgrade_is_passed_on_as_one() {
        let mut parts =
            head(Version::HTTP_11, "/", &[("host", "shop"), ("connection", "Upgrade"), ("upgrade", "WebSocket")]);
        let protocol = upgrade(&parts.headers).expect("an upgrade");
        assert!(is_websocket(&protocol));
        request(&mut parts, PEER, Some(&protocol)).expect("passed on");
        assert_eq!(parts.headers[header::CONNECTION], "upgrade");
        assert_eq!(parts.headers[header::UPGRADE], "WebSocket");
        for fields in [&[("upgrade", "websocket")][..], &[("connection", "upgrade"), ("upgrade", "h2c")][..]] {
            assert_eq!(upgrade(&head(Version::HTTP_11, "/", fields).headers), None);
        }
    }

    #[test]
    fn a_request_without_one_host_is_refused() {
        for (version, hosts, passed) in [
            (Version::HTTP_11, vec![], false),
            (Version::HTTP_10, vec![], true),
            (Version::HTTP_11, vec!["a", "b"], false),
            (Version::HTTP_11, vec!["a"], true),
        ] {
            let fields: Vec<(&str, &str)> = hosts.iter().map(|host| ("host", *host)).collect();
            let mut parts = head(version, "/", &fields);
            assert_eq!(request(&mut parts, PEER, None).is_ok(), passed, "{version:?} {fields:?}");
        }
        let mut connect = head(Version::HTTP_11, "shop:443", &[]);
        connect.method = Method::CONNECT;
        assert_eq!(
            request(&mut connect, PEER, None).map_err(|refused| refused.status),
            Err(StatusCode::METHOD_NOT_ALLOWED)
        );
    }
}
