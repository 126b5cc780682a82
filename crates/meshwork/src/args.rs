//! What the command line of a service asks for: to serve, to run one job, or help.

use std::{env, ffi::OsString};

use meshwork_core::Error;

use crate::job::Jobs;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Serve,
    Job(String),
    Help,
}

impl Command {
    /// Reads the arguments after the program's name; what is not ours is the author's, and so is all after `--`.
    ///
    /// # Errors
    /// `Invalid`: `--job` without a name, or given twice.
    pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
        let mut job = None;
        while let Some(arg) = args.next() {
            let name = match &*arg {
                "--" => break,
                "--help" | "-h" => return Ok(Self::Help),
                "--job" => args.next().unwrap_or_default(),
                arg => match arg.strip_prefix("--job=") {
                    Some(name) => name.to_owned(),
                    None => continue,
                },
            };
            if name.is_empty() || name.starts_with('-') {
                return Err(Error::invalid("`--job` without a name; write `--job=NAME`"));
            }
            if job.replace(name).is_some() {
                return Err(Error::invalid("`--job` twice; a process runs one job"));
            }
        }
        Ok(job.map_or(Self::Serve, Self::Job))
    }
}

/// The text of `--help`.
pub(crate) fn help(jobs: &Jobs) -> String {
    let program = env::current_exe().ok();
    let program = program.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
    let program = program.unwrap_or_else(|| "service".into());
    let mut listed: String = jobs.names().map(|name| format!("  {name}\n")).collect();
    if listed.is_empty() {
        listed.push_str("  none\n");
    }
    format!(
        "usage: {program} [--job=NAME] [--help]\n\n\
         Serves until SIGTERM or SIGINT; a second one ends it at once.\n\n\
         --job=NAME  run one job with the same configuration, announce nothing, and exit\n\
         --help      print this and exit\n\n\
         jobs:\n{listed}\n\
         environment:\n\
         \x20 MESHWORK_ENV            which config/ENV.toml is read (dev)\n\
         \x20 MESHWORK_CONFIG_DIR     where the files are (config)\n\
         \x20 MESHWORK__SECTION__KEY  any key of the configuration, MESHWORK__SERVICE__HTTP\n\
         \x20 RUST_LOG                what is logged (info)\n\n\
         exit codes: 0 done, 2 configuration, 3 listener, 4 registry, 5 start, 6 cut, 7 job, 8 task, 128 + n signal\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Command, String> {
        Command::read(args.iter().map(Into::into)).map_err(|error| error.to_string())
    }

    #[test]
    fn finds_what_is_ours_and_leaves_the_rest() {
        assert_eq!(read(&["provider", "--verbose"]), Ok(Command::Serve));
        assert_eq!(read(&["run", "--job=migrate", "-v"]), Ok(Command::Job("migrate".into())));
        assert_eq!(read(&["--job", "migrate"]), Ok(Command::Job("migrate".into())));
        assert_eq!(read(&["--job=migrate", "--help"]), Ok(Command::Help));
        assert_eq!(read(&["--", "--job=migrate"]), Ok(Command::Serve));
        assert_eq!(read(&["--jobs=migrate"]), Ok(Command::Serve));
    }

    #[test]
    fn a_job_without_a_name_is_a_mistake() {
        for args in [&["--job"][..], &["--job="], &["--job", "--help"], &["--job=a", "--job=b"]] {
            assert!(read(args).unwrap_err().contains("--job"), "{args:?}");
        }
    }

    #[test]
    fn help_lists_the_jobs() {
        let mut jobs = Jobs::default();
        assert!(help(&jobs).contains("jobs:\n  none\n"));
        jobs.add("migrate".into(), |_| async {});
        assert!(help(&jobs).contains("jobs:\n  migrate\n"));
    }
}
