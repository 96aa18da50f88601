//! What is right for each sample.

use crate::error::Result;
use crate::runtime::Tensor;

/// What is right for each sample of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// Its class.
    Classes(Vec<i64>),
    /// Real values, axis 0 = samples: what an output of the same shape, axes of length one aside, should be.
    Values(Tensor),
}

/// What labels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LabelKind {
    Classes,
    Values,
}

impl Labels {
    pub(super) fn kind(&self) -> LabelKind {
        match self {
            Self::Classes(_) => LabelKind::Classes,
            Self::Values(_) => LabelKind::Values,
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Values(values) => values.shape().first().copied().unwrap_or(0),
        }
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The classes, if samples have classes.
    pub fn classes(&self) -> Option<&[i64]> {
        match self {
            Self::Classes(classes) => Some(classes),
            Self::Values(_) => None,
        }
    }

    /// Whether an output of this shape can be held against these values, both with samples in front; axes of length one
    /// do not count.
    pub fn describe(values: &[usize], output: &[usize]) -> bool {
        let longer = |shape: &[usize]| shape.iter().copied().filter(|&size| size != 1).collect::<Vec<_>>();
        longer(values) == longer(output)
    }

    /// The labels of samples `rows`; those that there are none of are left out.
    ///
    /// # Errors
    /// If rows of a tensor cannot be put together.
    pub fn pick(&self, rows: &[usize]) -> Result<Self> {
        match self {
            Self::Classes(classes) => {
                Ok(Self::Classes(rows.iter().filter_map(|&row| classes.get(row).copied()).collect()))
            }
            Self::Values(values) => Ok(Self::Values(values.take(0, rows)?)),
        }
    }

    /// All of `parts`, one after the other; `None` if there is none, or classes and values are mixed.
    ///
    /// # Errors
    /// If the values have different shapes.
    pub fn concatenate(parts: Vec<Self>) -> Result<Option<Self>> {
        let (mut classes, mut values) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Self::Classes(more) => classes.extend(more),
                Self::Values(more) => values.push(more),
            }
        }
        match (classes.is_empty(), values.is_empty()) {
            (false, true) => Ok(Some(Self::Classes(classes))),
            (true, false) => Ok(Some(Self::Values(Tensor::concatenate_rows(&values)?))),
            _ => Ok(None),
        }
    }
}

/// Whether values of this shape can be those of an output of these sizes (`None`: open), samples and axes of length one aside.
pub(super) fn is_alike(values: &[usize], output: &[Option<usize>]) -> bool {
    let wanted: Vec<usize> = values.iter().skip(1).copied().filter(|&size| size != 1).collect();
    let found: Vec<Option<usize>> = output.iter().skip(1).copied().filter(|&size| size != Some(1)).collect();
    let fits = |(found, wanted): (&Option<usize>, &usize)| found.is_none_or(|found| found == *wanted);
    let alike = found.len() == wanted.len() && found.iter().zip(&wanted).all(fits);
    // An open axis may have length one.
    alike || (found.len() > wanted.len() && found.contains(&None))
}

/// How far real-valued labels spread around their mean, accumulated batch by batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread {
    rows: f64,
    sums: Vec<f64>,
    squares: f64,
}

impl Spread {
    /// Adds values, axis 0 = samples.
    ///
    /// # Errors
    /// If they are no numbers.
    pub(crate) fn add(&mut self, values: &Tensor) -> Result<()> {
        let rows = values.shape().first().copied().unwrap_or(1).max(1);
        let values = values.to_vec::<f64>()?;
        let width = (values.len() / rows).max(1);
        self.sums.resize(width.max(self.sums.len()), 0.0);
        for (index, value) in values.iter().enumerate() {
            self.sums[index % width] += value;
            self.squares += value * value;
        }
        self.rows += rows as f64;
        Ok(())
    }

    /// Number of samples.
    pub(crate) fn rows(&self) -> f64 {
        self.rows
    }

    /// `Σ‖t − mean of t‖²`, or `None` if it is zero up to rounding.
    pub(crate) fn total(&self) -> Option<f64> {
        let mean = self.sums.iter().map(|sum| sum * sum).sum::<f64>() / self.rows.max(1.0);
        let total = self.squares - mean;
        (total > 1e-12 * self.squares).then_some(total)
    }
}
