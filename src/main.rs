//! Parse, run, exit code. Nothing else.

fn main() -> std::process::ExitCode {
    baton::cli::run(std::env::args_os().collect())
}
