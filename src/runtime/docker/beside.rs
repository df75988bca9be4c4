//! Commands run beside an instance, and what it wrote.

use std::time::Duration;

use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::{Stream, StreamExt};

use super::engine::{ACT, ASK};
use super::host;
use super::runtime::Inner;
use crate::model::{FailureKind, InstanceId};
use crate::runtime::redact::Redactor;
use crate::runtime::{ExecOutput, RuntimeError};

/// What is kept of a command's output: its end.
const TAIL_MAX: usize = 4 << 10;
/// The most log lines that are read at a time.
const LINES_MAX: u32 = 10_000;
/// The most bytes of them.
const LOG_MAX: usize = 4 << 20;
/// Until the engine says that a killed command has gone.
const GONE_LOOKS: u32 = 100;
const GONE_EVERY: Duration = Duration::from_millis(20);

/// The last bytes of a stream.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    fn push(&mut self, more: &[u8], limit: usize) {
        self.bytes.extend_from_slice(more);
        // Not at every byte: twice the limit is little, and cutting costs a copy.
        if self.bytes.len() > 2 * limit {
            self.cut(limit);
        }
    }

    fn cut(&mut self, limit: usize) {
        self.bytes.drain(..self.bytes.len().saturating_sub(limit));
    }

    fn text(mut self, limit: usize) -> String {
        self.cut(limit);
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Inner {
    pub(super) async fn exec(
        &self,
        instance: &InstanceId,
        argv: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let (id, _, _) = self.existing(instance).await?;
        let client = self.engine.client().await?;
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(argv.to_vec()),
            ..ExecConfig::default()
        };
        let what = format!("running a command beside {instance}");
        let exec = self.engine.bounded(&what, ASK, client.create_exec(&id, config)).await?.id;
        let mut tail = Tail::default();
        let ran = tokio::time::timeout(timeout, async {
            match client.start_exec(&exec, None).await? {
                StartExecResults::Attached { output, .. } => take(output, &mut tail).await,
                StartExecResults::Detached => Ok(()),
            }
        });
        if let Ok(ran) = ran.await {
            self.engine.bounded(&what, ACT, std::future::ready(ran)).await?;
            // The streams end a moment before the engine knows how.
            for _ in 0..GONE_LOOKS {
                let about = self.engine.bounded(&what, ASK, client.inspect_exec(&exec)).await?;
                if about.running == Some(false) {
                    let code = about.exit_code.and_then(|code| i32::try_from(code).ok());
                    return Ok(ExecOutput { code, tail: tail.text(TAIL_MAX) });
                }
                tokio::time::sleep(GONE_EVERY).await;
            }
        }
        self.cut_off(instance, &id, &exec, timeout).await?;
        Ok(ExecOutput { code: None, tail: tail.text(TAIL_MAX) })
    }

    /// Ends a command that has had its time. The engine has no call for that: its process is killed from the host.
    async fn cut_off(
        &self,
        instance: &InstanceId,
        container: &str,
        exec: &str,
        timeout: Duration,
    ) -> Result<(), RuntimeError> {
        let client = self.engine.client().await?;
        let what = format!("ending a command beside {instance}");
        let unknown = |why: &str| RuntimeError {
            kind: FailureKind::Deadline,
            unknown: true,
            retryable: true,
            message: format!(
                "a command beside {instance} did not end within {} and may still run in its container: {why}",
                humantime::format_duration(timeout)
            ),
        };
        for look in 0..GONE_LOOKS {
            let about = self.engine.bounded(&what, ASK, client.inspect_exec(exec)).await?;
            if about.running == Some(false) {
                return Ok(());
            }
            let pid = about.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
            if look == 0
                && let Some(pid) = pid
                && let Err(error) = host::kill_tree(pid, container)
                // It has ended meanwhile: the next look says so.
                && std::path::Path::new(&format!("/proc/{pid}")).exists()
            {
                return Err(unknown(&error.to_string()));
            }
            tokio::time::sleep(GONE_EVERY).await;
        }
        Err(unknown("this host does not see its process, or cannot end it"))
    }

    pub(super) async fn logs(&self, instance: &InstanceId, lines: u32) -> Result<Vec<String>, RuntimeError> {
        let (id, _, about) = self.existing(instance).await?;
        let client = self.engine.client().await?;
        let lines = lines.min(LINES_MAX);
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let mut tail = Tail::default();
        let read = async {
            let mut stream = client.logs(&id, Some(options));
            while let Some(part) = stream.next().await {
                tail.push(part?.as_ref(), LOG_MAX);
            }
            Ok(())
        };
        self.engine.bounded(&format!("reading the log of {instance}"), ASK, read).await?;
        let config = about.config.unwrap_or_default();
        // What the image itself says is for everybody to read.
        let image = about.image.unwrap_or_default();
        let public = match self.engine.bounded("inspecting an image", ASK, client.inspect_image(&image)).await {
            Ok(about) => about.config.unwrap_or_default(),
            Err(_) => bollard::models::ImageConfig::default(),
        };
        let known: Vec<String> = public.env.iter().flatten().filter_map(|pair| value_of(pair)).collect();
        let env: Vec<String> = config.env.iter().flatten().filter_map(|pair| value_of(pair)).collect();
        let argv: Vec<&String> =
            if config.cmd == public.cmd { Vec::new() } else { config.cmd.iter().flatten().collect() };
        let secrets = env.iter().map(String::as_str).chain(argv.iter().filter_map(|word| secret_word(word)));
        let redactor = Redactor::hiding(secrets, &known);
        let text = tail.text(LOG_MAX);
        let all: Vec<&str> = text.lines().collect();
        let last = &all[all.len().saturating_sub(usize::try_from(lines).unwrap_or(usize::MAX))..];
        Ok(last.iter().map(|line| redactor.redact(line.trim_end_matches('\r').to_owned())).collect())
    }
}

async fn take(
    mut output: impl Stream<Item = Result<bollard::container::LogOutput, bollard::errors::Error>> + Unpin,
    tail: &mut Tail,
) -> Result<(), bollard::errors::Error> {
    while let Some(part) = output.next().await {
        tail.push(part?.as_ref(), TAIL_MAX);
    }
    Ok(())
}

fn value_of(pair: &str) -> Option<String> {
    pair.split_once('=').map(|(_, value)| value.to_owned())
}

/// The part of an argument that may be a secret: not a path, not an option's name, not a plain word.
fn secret_word(word: &str) -> Option<&str> {
    if word.starts_with('-') {
        return word.split_once('=').map(|(_, value)| value);
    }
    let plain = word.len() <= 12 && word.bytes().all(|byte| byte.is_ascii_lowercase());
    (!plain && !word.starts_with('/')).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_an_output_is_kept() {
        let mut tail = Tail::default();
        for number in 0..10_000 {
            tail.push(format!("{number}\n").as_bytes(), 16);
            assert!(tail.bytes.len() <= 48);
        }
        assert_eq!(tail.text(10), "9998\n9999\n");
    }

    #[test]
    fn a_value_in_an_argument_is_a_secret_and_a_path_is_not() {
        assert_eq!(secret_word("--token=hunter22"), Some("hunter22"));
        assert_eq!(secret_word("pa55phrase"), Some("pa55phrase"));
        for word in ["--verbose", "worker", "/bin/worker"] {
            assert_eq!(secret_word(word), None);
        }
    }
}
