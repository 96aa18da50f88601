//! A latency budget on the page: its rounds, and the time of every operator.

use super::charts::{self, Bar};
use super::text::{Cell, Column, folded, list, ms, paragraph, table};
use crate::report::figures::percent;
use crate::report::{LatencyReport, OperatorTime};

/// What was asked for of one run, and what each result was predicted and measured to take.
pub(super) fn latency_budget(budget: &LatencyReport) -> String {
    let LatencyReport { runtime, before_ms, wanted_ms, rounds, operators, .. } = budget;
    let text = format!(
        "{wanted_ms:.3} ms of {before_ms:.3} ms ({}) were asked for. Sizes were chosen by the times of {operators} operators in {runtime}.",
        percent(wanted_ms / before_ms.max(1e-9))
    );
    let results = rounds.iter().enumerate().map(|(index, round)| format!("result {}: {round}", index + 1));
    let verdict = budget.verdict().map(|verdict| paragraph(&format!("{verdict}."))).unwrap_or_default();
    paragraph(&text) + &list(results) + &verdict + &operator_times(&budget.times)
}

/// What every operator takes, as bars and as a table.
fn operator_times(times: &[OperatorTime]) -> String {
    let bars: Vec<Bar> = times
        .iter()
        .map(|OperatorTime { node, op, before_ms, after_ms }| Bar {
            title: format!("{node} ({op}): {} → {}", ms(*before_ms), ms(*after_ms)),
            before: *before_ms,
            after: *after_ms,
        })
        .collect();
    let columns =
        [Column::Text("Operator"), Column::Text("Kind"), Column::Figure("Time before"), Column::Figure("after")];
    let row = |time: &OperatorTime| -> Vec<Cell> {
        vec![time.node.clone().into(), time.op.clone().into(), ms(time.before_ms).into(), ms(time.after_ms).into()]
    };
    if times.is_empty() {
        return String::new();
    }
    let caption = "Time of every operator, from input to output";
    charts::bars(caption, &bars, ms)
        + &folded("All operators as a table", &table(caption, &columns, times.iter().map(row)))
}
