//! A report as plain text for people.

use std::fmt::Write as _;

use super::Report;

/// Writes a report as lines of text, the same for the same report. No colours: the terminal adds its own.
pub fn render(report: &Report) -> String {
    let mut text = format!("{}\n", report.headline);
    section(&mut text, "Why", &report.reasons);
    section(&mut text, "Slots", &report.changes);
    if !report.stages.is_empty() {
        text.push_str("\nOrder\n");
        for stage in &report.stages {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {}", stage.label);
            for line in &stage.lines {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
    if !report.components.is_empty() && !report.stages.is_empty() {
        text.push_str("\nComponents\n");
        for component in &report.components {
            let _ = writeln!(text, "  {}: {}", component.component, component.line);
            for line in [&component.roll, &component.grace, &component.ready] {
                if !line.is_empty() {
                    let _ = writeln!(text, "    {line}");
                }
            }
        }
    }
    if !report.stages.is_empty() {
        let nobody = vec!["nobody".to_owned()];
        section(&mut text, "Out", if report.outages.is_empty() { &nobody } else { &report.outages });
    }
    section(&mut text, "Way back", &report.way_back);
    section(&mut text, "Warnings", &report.warnings);
    text
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}");
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
}
