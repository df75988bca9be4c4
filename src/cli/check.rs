//! `baton check`: validate the manifest; nothing is contacted.

use super::Exit;
use super::args::Global;
use super::exit::Problem;
use super::project::needed_manifest;

pub(super) async fn run(global: &Global) -> Result<Exit, Problem> {
    let manifest = needed_manifest(global).await?;
    crate::planner::refuse_floors(&manifest).map_err(|error| Problem::new(Exit::Usage, error.to_string()))?;
    let slots: u32 = manifest.components.values().map(|definition| definition.replicas).sum();
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let (components, slots) = (count(manifest.components.len(), "component"), count(slots as usize, "slot"));
    println!("{}: {components}, {slots}: the manifest is good", manifest.fleet);
    Ok(Exit::Done)
}
