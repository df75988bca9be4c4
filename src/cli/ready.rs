//! All that a verb needs before it plans: what is written here, and a coordinator.

use super::args::Global;
use super::connect::{self, Connection};
use super::exit::Problem;
use super::project::{Composed, Found, Purpose, Written, find, nothing_here};

/// What is written here, and the coordinator where it has been met already.
pub(super) struct Ready {
    pub(super) written: Option<Written>,
    pub(super) connection: Option<Connection>,
}

/// Reads what is written here. Of a Compose project the fleet is known long before Compose has said what it would make
/// of it, so that a coordinator and an agent start meanwhile.
pub(super) async fn ready(global: &Global, to: Option<&str>, why: Purpose) -> Result<Ready, Problem> {
    match find(global, to, why).await? {
        None => Ok(Ready { written: None, connection: None }),
        Some(Found::Whole(manifest)) => {
            Ok(Ready { written: Some(Written { manifest, version: None, commit: None }), connection: None })
        }
        Some(Found::Composed(composed)) => both(global, *composed, why).await,
    }
}

/// The same for a verb that cannot do without.
pub(super) async fn needed(
    global: &Global,
    to: Option<&str>,
    why: Purpose,
) -> Result<(Written, Option<Connection>), Problem> {
    let Ready { written, connection } = ready(global, to, why).await?;
    Ok((written.ok_or_else(nothing_here)?, connection))
}

async fn both(global: &Global, composed: Composed, why: Purpose) -> Result<Ready, Problem> {
    let meeting = async {
        match composed.fleet() {
            Some(fleet) => connect::any(global, &connect::named(global, &fleet)?, true).await.map(Some),
            // What is wrong with the name is said with all else that is wrong in the file.
            None => Ok(None),
        }
    };
    let (rehearsed, mut met) = tokio::join!(composed.rehearse(), meeting);
    let written = async {
        let rehearsed = rehearsed?;
        if why == Purpose::Pull && !composed.has_images(&rehearsed) {
            // A pull takes minutes and may fail. Whoever types another verb meanwhile must not count on a coordinator
            // that ends with this one.
            close(&mut met).await;
        }
        composed.written(rehearsed, why).await
    };
    match written.await {
        Ok(written) => Ok(Ready { written: Some(written), connection: met? }),
        // What is wrong with the file comes before what is wrong with the coordinator.
        Err(problem) => {
            close(&mut met).await;
            Err(problem)
        }
    }
}

async fn close(met: &mut Result<Option<Connection>, Problem>) {
    if let Ok(connection) = met
        && let Some(connection) = connection.take()
    {
        connection.close().await;
    }
}
