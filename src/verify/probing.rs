//! What a proof runs on: samples of the data where there are some, synthetic inputs otherwise.

use crate::calibrate::data::{Batch, Dataset};
use crate::error::Result;
use crate::runtime::NamedTensor;

/// Probes from `data`, at least `samples` samples where it has so many: a pair first, where samples run together, which shows
/// whether they are kept apart, then single ones from all over the data.
///
/// # Errors
/// If the data cannot be read.
pub(crate) fn probes_of(data: &Dataset, samples: usize) -> Result<Vec<Vec<NamedTensor>>> {
    let mut probes: Vec<Batch> = Vec::new();
    let each = data.fixed_batch().unwrap_or(1);
    if data.fixed_batch().is_none() {
        probes.extend(data.batches_of(0..2, 2).next().transpose()?.filter(|batch| batch.samples() == 2));
    }
    let wanted = samples.saturating_sub(probes.iter().map(Batch::samples).sum()).div_ceil(each);
    let batches = data.samples() / each;
    let count = wanted.min(batches);
    for number in 0..count {
        // The last samples too: files are often sorted.
        let at = if count > 1 { number * (batches - 1) / (count - 1) } else { batches.saturating_sub(1) };
        probes.extend(data.batches_of(at * each..(at + 1) * each, each).next().transpose()?);
    }
    Ok(probes.into_iter().map(|batch| batch.inputs).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::inputs::DimSizes;
    use crate::runtime::sample_models::mlp;

    #[test]
    fn probes_come_from_all_over_the_data() {
        let graph = mlp().graph.unwrap();
        let data = |samples| Dataset::synthetic(&graph, &DimSizes::default(), samples, 1).unwrap();
        let sizes = |samples| -> Vec<usize> {
            probes_of(&data(samples), 6).unwrap().iter().map(|probe| probe[0].1.shape()[0]).collect()
        };
        assert_eq!(sizes(100), [2, 1, 1, 1, 1]);
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(2), [2, 1, 1]);
        let (probes, all) = (probes_of(&data(100), 6).unwrap(), data(100).batches(100).next().unwrap().unwrap());
        assert_eq!(probes[4][0].1, all.inputs[0].1.rows(99, 100).unwrap());
    }
}
