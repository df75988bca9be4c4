//! All that a verb needs before it plans: what is written here, and a coordinator.

use std::pin::pin;

use super::args::Global;
use super::connect::{self, Connection};
use super::exit::Problem;
use super::project::{Composed, Found, Purpose, Written, find, nothing_here};
use crate::model::{FleetName, Manifest};

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
        Some(Found::Whole(manifest)) => Ok(Ready { written: Some(whole(manifest)), connection: None }),
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

/// What is written here, and nobody is met.
pub(super) async fn written(global: &Global, to: Option<&str>, why: Purpose) -> Result<Option<Written>, Problem> {
    match find(global, to, why).await? {
        None => Ok(None),
        Some(Found::Whole(manifest)) => Ok(Some(whole(manifest))),
        Some(Found::Composed(composed)) => {
            let rehearsed = composed.rehearse().await?;
            composed.written(rehearsed, why).await.map(Some)
        }
    }
}

fn whole(manifest: Manifest) -> Written {
    Written { manifest, version: None, commit: None }
}

async fn both(global: &Global, composed: Composed, why: Purpose) -> Result<Ready, Problem> {
    let (rehearsed, mut met) = {
        let mut rehearsing = pin!(composed.rehearse());
        let mut meeting = pin!(meet(global, composed.fleet()));
        tokio::select! {
            rehearsed = &mut rehearsing => {
                // What is wrong with the file comes before what is wrong with the coordinator, and waits for nobody.
                let rehearsed = rehearsed?;
                (Ok(rehearsed), meeting.await)
            }
            met = &mut meeting => (rehearsing.await, met),
        }
    };
    let written = async {
        let rehearsed = rehearsed?;
        if why == Purpose::Pull && !composed.has_images(&rehearsed) {
            // A pull takes minutes and may fail. Whoever types another verb meanwhile must not count on a coordinator
            // that ends with this one, and who was in the way before may have gone after it.
            close(&mut met).await;
            met = Ok(None);
        }
        composed.written(rehearsed, why).await
    };
    match written.await {
        Ok(written) => Ok(Ready { written: Some(written), connection: met? }),
        Err(problem) => {
            close(&mut met).await;
            Err(problem)
        }
    }
}

/// Starts what this verb would embed. One that runs is somebody else's and may end before it is needed: it is looked
/// for then.
async fn meet(global: &Global, fleet: Option<FleetName>) -> Result<Option<Connection>, Problem> {
    // What is wrong with a name is said with all else that is wrong in the file.
    let Some(fleet) = fleet else { return Ok(None) };
    let connection = connect::any(global, &connect::named(global, &fleet)?, true).await?;
    Ok(connection.embedded.is_some().then_some(connection))
}

async fn close(met: &mut Result<Option<Connection>, Problem>) {
    if let Ok(connection) = met
        && let Some(connection) = connection.take()
    {
        connection.close().await;
    }
}
