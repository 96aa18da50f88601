//! Rows of the rule table in einx style: `"n# (g i) _..#, (g o) i _..#, (g o)? -> n (g o) _..#"`.
//!
//! | text | means |
//! |---|---|
//! | `c` | an axis; the same name is the same axis everywhere in the row |
//! | `(g i)` | a merged axis, outermost first |
//! | `(a + b)` | a concatenated axis |
//! | `_` | an axis that is related to no other |
//! | `s..` | any number of axes, the same ones everywhere in the row |
//! | `_..` | any number of unrelated axes |
//! | `#` behind an axis | frozen |
//! | `!` behind an axis | its removal shifts a statistic |
//! | `*` behind an axis | summed over, also where a result has the name: removed positions must be zeros in this operand |
//! | `?` behind an operand | may be left out |
//!
//! Sizes that the row leaves open are solved from the real shapes.

use std::collections::BTreeMap;

use super::extent::Extent;
use super::role::{Reason, Role};
use super::unify::{Unifier, Var};

/// A parsed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub(super) inputs: Vec<Operand>,
    pub(super) outputs: Vec<Operand>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operand {
    pub(super) axes: Vec<Axis>,
    pub(super) optional: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) term: Term,
    pub(super) mark: Mark,
    pub(super) rest: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Term {
    Anonymous,
    Name(String),
    Product(Vec<(Term, Mark)>),
    Sum(Vec<(Term, Mark)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    None,
    Freeze,
    Shift,
    Sum,
}

/// Why a row is malformed, or does not fit the shapes of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotationError {
    /// The text of the row cannot be parsed.
    #[error("cannot read the row at '{0}'")]
    Syntax(String),
    /// A node has more operands than the row names, or lacks one.
    #[error("{0}")]
    Operands(String),
    /// The shapes contradict the row.
    #[error("{0}")]
    Shapes(String),
}

/// What a row says of one node.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The named axes of the row.
    pub vars: BTreeMap<String, Var>,
    /// `(operand, axis)` of every input axis that is summed over: marked so, or in no output and not frozen.
    pub contracted: Vec<(usize, usize)>,
}

/// Axis pattern of one real axis: rests expanded, names of rests made unique by position.
type Expanded = Vec<(Term, Mark)>;

impl Row {
    /// Sizes of the outputs that the sizes of the inputs imply; `None` where they are open.
    ///
    /// # Errors
    /// If the inputs do not fit the row.
    pub fn output_extents(
        &self,
        known: &[(&str, u64)],
        inputs: &[Option<Vec<Extent>>],
        output_count: usize,
    ) -> Result<Vec<Option<Vec<Extent>>>, NotationError> {
        let mut rests = BTreeMap::new();
        let patterns = expand_all(&self.inputs, inputs, "input", &mut rests)?;
        let sizes = solve_sizes(known, patterns.iter().zip(inputs))?;
        Ok(self
            .outputs
            .iter()
            .take(output_count)
            .map(|operand| {
                let pattern = expand(operand, None, &mut rests)?;
                pattern.iter().map(|(term, _)| size_of(term, &sizes)).collect()
            })
            .collect())
    }

    /// Adds the equations of the row between the axes of one node.
    ///
    /// `known` gives sizes of names that attributes determine. `None` is an operand left out.
    ///
    /// # Errors
    /// If the shapes contradict the row; nothing has been unified then.
    pub fn apply(
        &self,
        unifier: &mut Unifier,
        known: &[(&str, u64)],
        inputs: &[Option<Vec<Var>>],
        outputs: &[Option<Vec<Var>>],
        node: &str,
    ) -> Result<Applied, NotationError> {
        let extents = |operands: &[Option<Vec<Var>>]| -> Vec<Option<Vec<Extent>>> {
            let sizes = |axes: &Vec<Var>| axes.iter().map(|&axis| unifier.extent(axis)).collect();
            operands.iter().map(|operand| operand.as_ref().map(sizes)).collect()
        };
        let (in_sizes, out_sizes) = (extents(inputs), extents(outputs));
        let mut rests = BTreeMap::new();
        let in_patterns = expand_all(&self.inputs, &in_sizes, "input", &mut rests)?;
        let out_patterns = expand_all(&self.outputs, &out_sizes, "output", &mut rests)?;
        let pairs = in_patterns.iter().zip(&in_sizes).chain(out_patterns.iter().zip(&out_sizes));
        let sizes = solve_sizes(known, pairs)?;

        let mut applied = Applied::default();
        for (name, &size) in &sizes {
            let var = unifier.factor(size);
            applied.vars.insert(name.clone(), var);
        }
        let all = in_patterns.iter().zip(inputs).chain(out_patterns.iter().zip(outputs));
        for (pattern, axes) in all {
            let Some(axes) = axes else { continue };
            for ((term, mark), &axis) in pattern.iter().zip(axes) {
                let built = build(unifier, &applied.vars, term, node)?;
                if let Some(built) = built {
                    unifier.unify(axis, built).map_err(|misfit| NotationError::Shapes(misfit.to_string()))?;
                }
                apply_mark(unifier, axis, *mark, node);
            }
        }
        applied.contracted = contracted(&in_patterns, inputs, &out_patterns);
        Ok(applied)
    }
}

/// Input axes of which some name is marked as summed over, or occurs in no output and is not frozen.
fn contracted(inputs: &[Expanded], present: &[Option<Vec<Var>>], outputs: &[Expanded]) -> Vec<(usize, usize)> {
    let mut kept = Vec::new();
    outputs.iter().flatten().for_each(|(term, _)| term.names(Mark::None, &mut |name, _| kept.push(name)));
    let mut found = Vec::new();
    for (operand, pattern) in inputs.iter().enumerate() {
        if present.get(operand).is_none_or(Option::is_none) {
            continue;
        }
        for (axis, (term, mark)) in pattern.iter().enumerate() {
            let mut gone = false;
            term.names(*mark, &mut |name, mark| {
                gone |= mark == Mark::Sum || (mark != Mark::Freeze && !kept.contains(&name));
            });
            if gone {
                found.push((operand, axis));
            }
        }
    }
    found
}

impl Term {
    fn names<'t>(&'t self, mark: Mark, visit: &mut impl FnMut(&'t str, Mark)) {
        match self {
            Term::Anonymous => {}
            Term::Name(name) => visit(name, mark),
            Term::Product(parts) | Term::Sum(parts) => {
                for (part, own) in parts {
                    part.names(if *own == Mark::None { mark } else { *own }, visit);
                }
            }
        }
    }
}

fn apply_mark(unifier: &mut Unifier, var: Var, mark: Mark, node: &str) {
    match mark {
        Mark::None | Mark::Sum => {}
        Mark::Freeze => unifier.freeze(var, Reason::new(node, "the operator fixes this axis")),
        Mark::Shift => {
            unifier.mark(var, &Role::Shifts(Reason::new(node, "a statistic over this axis moves")));
        }
    }
}

fn build(
    unifier: &mut Unifier,
    vars: &BTreeMap<String, Var>,
    term: &Term,
    node: &str,
) -> Result<Option<Var>, NotationError> {
    let parts = match term {
        Term::Anonymous => return Ok(None),
        Term::Name(name) => return Ok(vars.get(name).copied()),
        Term::Product(parts) | Term::Sum(parts) => parts,
    };
    let mut built = Vec::with_capacity(parts.len());
    for (part, mark) in parts {
        let Some(var) = build(unifier, vars, part, node)? else { return Ok(None) };
        apply_mark(unifier, var, *mark, node);
        built.push(var);
    }
    let whole = if matches!(term, Term::Sum(_)) { unifier.sum(&built) } else { unifier.product(&built) };
    whole.map(Some).map_err(|misfit| NotationError::Shapes(misfit.to_string()))
}

fn expand_all(
    operands: &[Operand],
    sizes: &[Option<Vec<Extent>>],
    side: &str,
    rests: &mut BTreeMap<String, usize>,
) -> Result<Vec<Expanded>, NotationError> {
    if sizes.iter().skip(operands.len()).any(Option::is_some) {
        let extra = operands.len();
        return Err(NotationError::Operands(format!("{side} {extra} is not described by the rule")));
    }
    let mut expanded = Vec::with_capacity(operands.len());
    for (index, operand) in operands.iter().enumerate() {
        match sizes.get(index).and_then(Option::as_ref) {
            None if operand.optional || side == "output" => expanded.push(Vec::new()),
            None => return Err(NotationError::Operands(format!("{side} {index} is missing or of unknown rank"))),
            Some(axes) => {
                let rank = axes.len();
                let pattern = expand(operand, Some(rank), rests).filter(|p| p.len() == rank);
                expanded.push(pattern.ok_or_else(|| {
                    NotationError::Shapes(format!("{side} {index} of rank {rank} does not fit the rule"))
                })?);
            }
        }
    }
    Ok(expanded)
}

/// The pattern with its rest (`s..`) written out, to `rank` axes where that is known.
fn expand(operand: &Operand, rank: Option<usize>, rests: &mut BTreeMap<String, usize>) -> Option<Expanded> {
    let plain = operand.axes.iter().filter(|axis| !axis.rest).count();
    let mut pattern = Expanded::new();
    for axis in &operand.axes {
        if !axis.rest {
            pattern.push((axis.term.clone(), axis.mark));
            continue;
        }
        let length = match (&axis.term, rank) {
            (Term::Name(name), Some(rank)) => *rests.entry(name.clone()).or_insert(rank.checked_sub(plain)?),
            (Term::Name(name), None) => *rests.get(name)?,
            (_, Some(rank)) => rank.checked_sub(plain)?,
            (_, None) => return None,
        };
        for i in 0..length {
            let term = match &axis.term {
                Term::Name(name) => Term::Name(format!("{name}.{i}")),
                other => other.clone(),
            };
            pattern.push((term, axis.mark));
        }
    }
    Some(pattern)
}

fn solve_sizes<'p>(
    known: &[(&str, u64)],
    operands: impl Iterator<Item = (&'p Expanded, &'p Option<Vec<Extent>>)>,
) -> Result<BTreeMap<String, Extent>, NotationError> {
    let mut sizes: BTreeMap<String, Extent> =
        known.iter().map(|&(name, size)| (name.to_owned(), Extent::fixed(size))).collect();
    let mut open: Vec<(&Term, Extent)> = Vec::new();
    for (pattern, extents) in operands {
        let Some(extents) = extents else { continue };
        open.extend(pattern.iter().map(|(term, _)| term).zip(extents.iter().copied()));
    }
    loop {
        let before = (open.len(), sizes.len());
        let mut still = Vec::new();
        for (term, extent) in open {
            if !solve_one(term, extent, &mut sizes)? {
                still.push((term, extent));
            }
        }
        open = still;
        if open.is_empty() {
            return Ok(sizes);
        }
        if before == (open.len(), sizes.len()) {
            return Err(NotationError::Shapes("the shapes leave a size of the rule open".to_owned()));
        }
    }
}

/// Solves `term = extent` for the one unknown name in it; `false` if there are several.
fn solve_one(term: &Term, extent: Extent, sizes: &mut BTreeMap<String, Extent>) -> Result<bool, NotationError> {
    if let Some(size) = size_of(term, sizes) {
        return if size == extent || matches!(term, Term::Anonymous) {
            Ok(true)
        } else {
            Err(NotationError::Shapes(format!("an axis has size {extent} where the rule asks for {size}")))
        };
    }
    let parts = match term {
        Term::Anonymous => return Ok(true),
        Term::Name(name) => {
            sizes.insert(name.clone(), extent);
            return Ok(true);
        }
        Term::Product(parts) | Term::Sum(parts) => parts,
    };
    let product = matches!(term, Term::Product(_));
    let mut rest = Some(extent);
    let mut unknown = None;
    for (part, _) in parts {
        match size_of(part, sizes) {
            Some(size) if product => rest = rest.and_then(|r| r.div_exact(size)),
            Some(size) => rest = rest.and_then(|r| r.checked_sub(size)),
            None if unknown.is_none() => unknown = Some(part),
            None => return Ok(false),
        }
    }
    let rest = rest
        .ok_or_else(|| NotationError::Shapes(format!("an axis of size {extent} does not divide as the rule asks")))?;
    unknown.map_or(Ok(true), |part| solve_one(part, rest, sizes))
}

fn size_of(term: &Term, sizes: &BTreeMap<String, Extent>) -> Option<Extent> {
    match term {
        Term::Anonymous => None,
        Term::Name(name) => sizes.get(name).copied(),
        Term::Product(parts) => parts.iter().try_fold(Extent::ONE, |n, (part, _)| n.checked_mul(size_of(part, sizes)?)),
        Term::Sum(parts) => {
            parts.iter().try_fold(Extent::fixed(0), |n, (part, _)| n.checked_add(size_of(part, sizes)?))
        }
    }
}
