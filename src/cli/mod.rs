//! One file a verb; terminal, plain and JSON output. Composes everything; nobody imports it.

mod args;
mod carry;
mod check;
mod commit;
mod confirm;
mod connect;
mod daemon;
mod exit;
mod follow;
mod hands;
mod history;
mod init;
mod live;
mod logs;
mod offline;
mod operate;
mod output;
mod plan;
mod project;
mod ready;
mod relay;
mod status;
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

pub use exit::Exit;

use args::{AgentArgs, Cli, Verb};

/// Parses, runs, and says how it ended. The whole program: `main` and the quickstart are both this.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Help and version are what was asked for; everything else is bad usage.
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    // A reader that has seen enough (`baton logs | head`) ends this process quietly, as it does other tools.
    let exit = match cli.verb {
        // Single-threaded and small: it stays for as long as its slot does.
        Verb::Keeper { dir } => return daemon::keeper(&dir),
        Verb::Relay { socket } => return relay::run(&socket),
        // It blocks signals before any other thread is there.
        Verb::Agent(AgentArgs { component: Some(component), socket, program, .. }) => {
            return daemon::component(component, socket, program);
        }
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "baton", &mut std::io::stdout());
            Exit::Done
        }
        verb => match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => {
                let exit = runtime.block_on(dispatch(cli.global, verb));
                // Streams and watches never end by themselves.
                runtime.shutdown_timeout(std::time::Duration::from_millis(200));
                exit
            }
            Err(error) => {
                eprintln!("error: cannot start: {error}");
                Exit::Failed
            }
        },
    };
    exit.into()
}

async fn dispatch(global: args::Global, verb: Verb) -> Exit {
    output::init_logging(&verb);
    let result = match verb {
        Verb::Check => check::run(&global).await,
        Verb::Init(args) => init::run(&global, args).await,
        Verb::Plan(args) => plan::run(&global, args).await,
        Verb::Up(args) => carry::up(&global, args).await,
        Verb::Restart(args) => carry::restart(&global, args).await,
        Verb::Down(args) => carry::down(&global, args).await,
        Verb::Drain(args) => carry::drain(&global, args).await,
        Verb::Undrain(args) => carry::undrain(&global, args).await,
        Verb::Rollback(args) => operate::rollback(&global, args).await,
        Verb::Status(args) => status::run(&global, args).await,
        Verb::Watch(args) => status::watch(&global, args).await,
        Verb::Pause(args) => operate::pause(&global, args).await,
        Verb::Resume(args) => operate::resume(&global, args).await,
        Verb::Abort(args) => operate::abort(&global, args).await,
        Verb::Retry(args) => operate::retry(&global, args).await,
        Verb::Settle(args) => operate::settle(&global, args).await,
        Verb::Approve(args) => operate::approve(&global, args).await,
        Verb::History(args) => history::run(&global, args).await,
        Verb::Logs(args) => logs::run(&global, args).await,
        Verb::Coordinator(args) => daemon::coordinator(&global, args).await,
        Verb::Agent(args) => daemon::agent(&global, args).await,
        Verb::Gateway(args) => daemon::gateway(args).await,
        Verb::Keeper { .. } | Verb::Relay { .. } | Verb::Completions { .. } => Ok(Exit::Done),
    };
    result.unwrap_or_else(|problem| {
        output::problem(&global, &problem);
        problem.exit
    })
}
