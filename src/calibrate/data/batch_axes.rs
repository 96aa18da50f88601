//! Which axis of each input counts samples: by the declarations, or as the caller says.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::runtime::inputs::{DeclaredInput, Dim};
use crate::{Error, Result};

/// Axes of samples by the name of an input or output, where the caller knows better than the declarations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchAxes(BTreeMap<String, Option<usize>>);

impl BatchAxes {
    /// Adds `NAME=AXIS` or `NAME=none`, as typed.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when it does not have that form.
    pub fn add(&mut self, typed: &str) -> Result<()> {
        let wrong =
            || Error::usage(format!("`batch_axis` wants NAME=AXIS or NAME=none, for instance state=1, not '{typed}'"));
        let (name, axis) = typed.rsplit_once('=').ok_or_else(wrong)?;
        let axis = match axis.trim() {
            "none" => None,
            axis => Some(usize::from_str(axis).map_err(|_| wrong())?),
        };
        if name.trim().is_empty() {
            return Err(wrong());
        }
        self.set(name.trim(), axis);
        Ok(())
    }

    /// Says that `axis` of `input` counts samples, or that none does.
    pub fn set(&mut self, input: impl Into<String>, axis: Option<usize>) {
        self.0.insert(input.into(), axis);
    }

    /// What was said about `name`.
    pub fn of(&self, name: &str) -> Option<Option<usize>> {
        self.0.get(name).copied()
    }
}

/// The axis of samples of an input, by its declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SampleAxis {
    /// This one.
    At(usize),
    /// The input has rank 0, or the caller says that it has none.
    Shared,
    /// The input has no axis in common with the others.
    Missing,
}

impl SampleAxis {
    /// The number of the axis, if there is one.
    pub(super) fn position(self) -> Option<usize> {
        match self {
            Self::At(axis) => Some(axis),
            Self::Shared | Self::Missing => None,
        }
    }
}

/// The axes of samples of `inputs`.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when `typed` names no input or an axis that the input lacks.
pub(super) fn sample_axes(inputs: &[DeclaredInput], typed: &BatchAxes) -> Result<Vec<SampleAxis>> {
    for (name, axis) in &typed.0 {
        let Some(input) = inputs.iter().find(|input| input.name == *name) else {
            let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
            let message = format!("`batch_axis` {name}: no such input; the model has {}", names.join(", "));
            return Err(Error::usage(message));
        };
        let rank = input.dims.as_ref().map(Vec::len);
        if let (Some(axis), Some(rank)) = (axis, rank)
            && *axis >= rank
        {
            return Err(Error::usage(format!("`batch_axis` {name}={axis}: the input has {rank} axes, counted from 0")));
        }
    }
    // One fixed size in front of all inputs is a batch of that size.
    let of_rank = || inputs.iter().filter(|input| input.dims.as_ref().is_none_or(|dims| !dims.is_empty()));
    let any_open = of_rank().any(|input| input.fixed_batch().is_none());
    let axis = |input: &DeclaredInput| {
        if let Some(axis) = typed.of(&input.name) {
            return axis.map_or(SampleAxis::Shared, SampleAxis::At);
        }
        match input.dims.as_deref() {
            Some([]) => SampleAxis::Shared,
            Some([Dim::Fixed(_), rest @ ..]) if any_open => {
                let others = inputs.iter().filter(|other| other.name != input.name);
                open_like(rest, others).map_or(SampleAxis::Missing, |axis| SampleAxis::At(axis + 1))
            }
            _ => SampleAxis::At(0),
        }
    };
    Ok(inputs.iter().map(axis).collect())
}

/// The axis among `dims` with the symbol that another input has in front; without symbols, the only open one.
fn open_like<'i>(dims: &[Dim], others: impl Iterator<Item = &'i DeclaredInput>) -> Option<usize> {
    let fronts: Vec<&Dim> = others.filter_map(|other| other.dims.as_ref()?.first()).collect();
    if let Some(at) = dims.iter().position(|dim| matches!(dim, Dim::Symbol(_)) && fronts.contains(&dim)) {
        return Some(at);
    }
    let mut open = dims.iter().enumerate().filter(|(_, dim)| matches!(dim, Dim::Unknown));
    match (open.next(), open.next()) {
        (Some((at, _)), None) if fronts.contains(&&Dim::Unknown) => Some(at),
        _ => None,
    }
}
