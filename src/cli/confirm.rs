//! Asking before anything is touched.

use std::io::{BufRead, IsTerminal, Write};

use super::Exit;
use super::exit::Problem;

/// Asks, unless `yes`. Without a terminal and without `--yes` nothing is begun.
pub(super) fn confirm(question: &str, yes: bool) -> Result<bool, Problem> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Problem::new(Exit::Usage, "there is no terminal to ask on; say --yes if this is what you want"));
    }
    print!("{question} [y/N] ");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|error| Problem::of(Exit::Usage, &error))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
