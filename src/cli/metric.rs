//! The user's own metric, as given on the command line.

use std::io::Write;
use std::time::Duration;

use crate::Metric;
use crate::error::Result;

/// How the result is judged by a command of the user.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Judging {
    /// Command that measures the quality of a model, such as 'python eval.py {model}': `{model}` stands for the model's
    /// path, and the last number that it prints is the metric
    #[arg(long, value_name = "CMD")]
    metric_cmd: Option<String>,
    /// A lower figure of --metric-cmd is better
    #[arg(long, requires = "metric_cmd")]
    lower_is_better: bool,
    /// Stop with an error if one run of --metric-cmd takes longer than this many seconds [default: no limit]
    #[arg(long, value_name = "SECONDS", requires = "metric_cmd", value_parser = seconds)]
    metric_timeout: Option<Duration>,
}

impl Judging {
    /// The metric that was typed. Says how often a job will measure it at most, unless `quiet`.
    pub(super) fn metric(&self, runs: usize, quiet: bool) -> Result<Option<Metric>> {
        let Some(line) = &self.metric_cmd else { return Ok(None) };
        let metric = Metric::command(line, self.metric_timeout)?.lower_is_better(self.lower_is_better);
        if !quiet {
            // Nothing depends on whether anybody reads it.
            let _ = writeln!(std::io::stderr(), "the metric is measured {runs} times at most, first on the original");
        }
        Ok(Some(metric))
    }
}

/// A time of more than zero seconds.
fn seconds(typed: &str) -> Result<Duration, String> {
    let seconds = typed.parse().ok().filter(|&seconds: &f64| seconds > 0.0);
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| format!("'{typed}' is not a number of seconds"))
}
