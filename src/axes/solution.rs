//! The solved equations: independent factors, and every axis as an expression of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::extent::Extent;
use super::role::{Reason, Role};
use super::unify::{Form, Unifier, Var};

/// A solved factor: a set of indices that are removed one by one, wherever the factor is mentioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactorId(pub u32);

impl FactorId {
    /// Position in [`Solution::factors`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is known about a solved factor.
#[derive(Debug, Clone)]
pub struct Factor {
    /// Number of indices.
    pub extent: Extent,
    /// Strongest role that any operator gave it.
    pub role: Role,
}

/// An axis as a sum of products of factors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Expr {
    /// A broadcast axis of size one, or the empty product.
    One,
    /// All indices of one factor, in order.
    Factor(FactorId),
    /// A merged axis, outermost first.
    Product(Vec<Expr>),
    /// A concatenation.
    Sum(Vec<Expr>),
    /// Position → index of a factor.
    Spelled(Arc<[(FactorId, u32)]>),
}

/// The kept indices of each factor; a factor that is not mentioned keeps all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    kept: BTreeMap<FactorId, Vec<bool>>,
}

impl Selection {
    /// Everything is kept.
    pub fn all() -> Self {
        Self::default()
    }

    /// Keeps exactly the indices of `factor` whose flag is set; flags beyond its size are ignored.
    pub fn keep(&mut self, factor: FactorId, flags: Vec<bool>) {
        if flags.iter().all(|&flag| flag) {
            self.kept.remove(&factor);
        } else {
            self.kept.insert(factor, flags);
        }
    }

    /// Whether index `index` of `factor` stays.
    pub fn keeps(&self, factor: FactorId, index: usize) -> bool {
        self.kept.get(&factor).is_none_or(|flags| flags.get(index).copied().unwrap_or(true))
    }

    /// Whether every index of `factor` stays.
    pub fn keeps_all(&self, factor: FactorId) -> bool {
        !self.kept.contains_key(&factor)
    }

    /// Flags of a factor that loses something.
    pub fn flags(&self, factor: FactorId) -> Option<&[bool]> {
        self.kept.get(&factor).map(Vec::as_slice)
    }

    /// The factors that lose something, in order.
    pub fn touched(&self) -> impl Iterator<Item = FactorId> + '_ {
        self.kept.keys().copied()
    }

    /// Number of kept indices of a factor that has `size` of them.
    pub fn count(&self, factor: FactorId, size: usize) -> usize {
        self.kept.get(&factor).map_or(size, |flags| flags.iter().filter(|&&flag| flag).count())
    }
}

/// The independent factors of a network.
#[derive(Debug, Clone, Default)]
pub struct Solution {
    /// All factors, by [`FactorId`].
    pub factors: Vec<Factor>,
}

impl Solution {
    /// What is known about `factor`.
    pub fn factor(&self, factor: FactorId) -> &Factor {
        &self.factors[factor.index()]
    }

    /// Number of indices of `factor`, one if it is dynamic.
    pub fn size(&self, factor: FactorId) -> usize {
        self.factor(factor).extent.as_fixed().unwrap_or(1)
    }

    /// Size of an axis when `selection` is kept, `None` on overflow.
    pub fn extent(&self, expr: &Expr, selection: &Selection) -> Option<Extent> {
        match expr {
            Expr::One => Some(Extent::ONE),
            Expr::Factor(id) => match selection.flags(*id) {
                None => Some(self.factor(*id).extent),
                Some(flags) => Some(Extent::fixed(flags.iter().filter(|&&f| f).count() as u64)),
            },
            Expr::Product(parts) => {
                parts.iter().try_fold(Extent::ONE, |n, p| n.checked_mul(self.extent(p, selection)?))
            }
            Expr::Sum(terms) => {
                terms.iter().try_fold(Extent::fixed(0), |n, t| n.checked_add(self.extent(t, selection)?))
            }
            Expr::Spelled(positions) => {
                let kept = positions.iter().filter(|(id, i)| selection.keeps(*id, *i as usize)).count();
                Some(Extent::fixed(kept as u64))
            }
        }
    }

    /// Flags of the kept positions of an axis of static size; `None` if all are kept.
    pub fn kept_flags(&self, expr: &Expr, selection: &Selection) -> Option<Vec<bool>> {
        if self.is_touched(expr, selection) { self.flags(expr, selection) } else { None }
    }

    /// The kept positions of an axis of static size, ascending; `None` if all are kept.
    pub fn kept(&self, expr: &Expr, selection: &Selection) -> Option<Vec<usize>> {
        let flags = self.kept_flags(expr, selection)?;
        Some(flags.iter().enumerate().filter_map(|(i, &keep)| keep.then_some(i)).collect())
    }

    /// Whether a position of the axis goes.
    pub fn is_touched(&self, expr: &Expr, selection: &Selection) -> bool {
        match expr {
            Expr::One => false,
            Expr::Factor(id) => !selection.keeps_all(*id),
            Expr::Product(parts) | Expr::Sum(parts) => parts.iter().any(|p| self.is_touched(p, selection)),
            Expr::Spelled(positions) => positions.iter().any(|(id, i)| !selection.keeps(*id, *i as usize)),
        }
    }

    fn flags(&self, expr: &Expr, selection: &Selection) -> Option<Vec<bool>> {
        match expr {
            Expr::One => Some(vec![true]),
            Expr::Factor(id) => match selection.flags(*id) {
                Some(flags) => Some(flags.to_vec()),
                None => Some(vec![true; self.factor(*id).extent.as_fixed()?]),
            },
            Expr::Product(parts) => {
                let mut flags = vec![true];
                for part in parts {
                    let inner = self.flags(part, selection)?;
                    flags = flags.iter().flat_map(|&a| inner.iter().map(move |&b| a && b)).collect();
                }
                Some(flags)
            }
            Expr::Sum(terms) => {
                let mut flags = Vec::new();
                for term in terms {
                    flags.extend(self.flags(term, selection)?);
                }
                Some(flags)
            }
            Expr::Spelled(positions) => {
                Some(positions.iter().map(|(id, i)| selection.keeps(*id, *i as usize)).collect())
            }
        }
    }

    /// For every position of an axis of static size, the index of `factor` that it belongs to.
    pub fn positions_of(&self, expr: &Expr, factor: FactorId) -> Option<Vec<Option<u32>>> {
        match expr {
            Expr::One => Some(vec![None]),
            Expr::Factor(id) => {
                let size = u32::try_from(self.factor(*id).extent.as_fixed()?).ok()?;
                Some((0..size).map(|i| (*id == factor).then_some(i)).collect())
            }
            Expr::Product(parts) => {
                let mut all = vec![None];
                for part in parts {
                    let inner = self.positions_of(part, factor)?;
                    all = all.iter().flat_map(|&a| inner.iter().map(move |&b| a.or(b))).collect();
                }
                Some(all)
            }
            Expr::Sum(terms) => {
                let mut all = Vec::new();
                for term in terms {
                    all.extend(self.positions_of(term, factor)?);
                }
                Some(all)
            }
            Expr::Spelled(positions) => Some(positions.iter().map(|(id, i)| (*id == factor).then_some(*i)).collect()),
        }
    }
}

impl Expr {
    /// Calls `visit` for every factor mentioned, in order, repetitions included.
    pub fn for_each_factor(&self, visit: &mut impl FnMut(FactorId)) {
        match self {
            Expr::One => {}
            Expr::Factor(id) => visit(*id),
            Expr::Product(parts) | Expr::Sum(parts) => parts.iter().for_each(|p| p.for_each_factor(visit)),
            Expr::Spelled(positions) => {
                let mut last = None;
                for (id, _) in positions.iter() {
                    if last != Some(*id) {
                        visit(*id);
                        last = Some(*id);
                    }
                }
            }
        }
    }

    /// The factors mentioned, each once, in order of first mention.
    pub fn factors(&self) -> Vec<FactorId> {
        let mut found = Vec::new();
        self.for_each_factor(&mut |id| {
            if !found.contains(&id) {
                found.push(id);
            }
        });
        found
    }

    /// Whether `factor` is mentioned.
    pub fn mentions(&self, factor: FactorId) -> bool {
        let mut found = false;
        self.for_each_factor(&mut |id| found |= id == factor);
        found
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, parts: &[Expr], by: &str| {
            f.write_str("(")?;
            for (i, part) in parts.iter().enumerate() {
                if i > 0 {
                    f.write_str(by)?;
                }
                write!(f, "{part}")?;
            }
            f.write_str(")")
        };
        match self {
            Expr::One => f.write_str("1"),
            Expr::Factor(id) => write!(f, "f{}", id.0),
            Expr::Product(parts) => joined(f, parts, " "),
            Expr::Sum(terms) => joined(f, terms, " + "),
            Expr::Spelled(positions) => write!(f, "[{} spelled]", positions.len()),
        }
    }
}

/// Turns solved equations into independent factors; [`Solver::expr`] then gives the axes.
#[derive(Debug)]
pub struct Solver<'u> {
    unifier: &'u Unifier,
    solution: Solution,
    leaves: BTreeMap<Var, Expr>,
    atoms: BTreeMap<u32, (FactorId, u32)>,
}

impl<'u> Solver<'u> {
    /// Solves all equations of `unifier`.
    pub fn new(unifier: &'u Unifier) -> Self {
        let roles = propagate(unifier);
        let mut solver =
            Self { unifier, solution: Solution::default(), leaves: BTreeMap::new(), atoms: BTreeMap::new() };
        solver.compress_atoms(&roles);
        for (index, factor) in unifier.factors.iter().enumerate() {
            if !matches!(factor.form, Form::Unknown) || factor.extent.is_one() {
                continue;
            }
            let mut role = roles[index].clone();
            if factor.extent.as_fixed().is_none() {
                role.strengthen(&Role::Frozen(Reason::new("model", "dynamic size")));
            }
            let id = solver.new_factor(factor.extent, role);
            solver.leaves.insert(Var::from_index(index), Expr::Factor(id));
        }
        solver
    }

    /// The expression of an axis.
    pub fn expr(&mut self, var: Var) -> Expr {
        let root = self.unifier.root(var);
        if let Some(known) = self.leaves.get(&root) {
            return known.clone();
        }
        let factor = &self.unifier.factors[root.index()];
        let expr = match &factor.form {
            Form::Unknown | Form::Same(_) => Expr::One,
            Form::Product(parts) => flat(parts.iter().map(|&p| self.expr(p)), Expr::Product, |e| match e {
                Expr::Product(inner) => Ok(inner),
                other => Err(other),
            }),
            Form::Sum(terms) => flat(terms.iter().map(|&t| self.expr(t)), Expr::Sum, |e| match e {
                Expr::Sum(inner) => Ok(inner),
                other => Err(other),
            }),
            Form::Spelled(atoms) => self.spelled(atoms),
        };
        self.leaves.insert(root, expr.clone());
        expr
    }

    /// The independent factors.
    pub fn finish(self) -> Solution {
        self.solution
    }

    fn new_factor(&mut self, extent: Extent, role: Role) -> FactorId {
        let id = FactorId(u32::try_from(self.solution.factors.len()).unwrap_or(u32::MAX));
        self.solution.factors.push(Factor { extent, role });
        id
    }

    fn spelled(&self, atoms: &[u32]) -> Expr {
        let positions: Vec<(FactorId, u32)> =
            atoms.iter().filter_map(|&atom| self.atoms.get(&self.unifier.atoms.find(atom)).copied()).collect();
        if let Some(&(id, 0)) = positions.first() {
            let in_order = positions.iter().enumerate().all(|(i, &(f, k))| f == id && k as usize == i);
            if in_order && self.solution.size(id) == positions.len() {
                return Expr::Factor(id);
            }
        }
        Expr::Spelled(positions.into())
    }

    /// Atoms that occur equally often in the same spelled axes, with the same role, become one factor.
    fn compress_atoms(&mut self, roles: &[Role]) {
        let mut seen: BTreeMap<u32, (Vec<(usize, u32)>, Role)> = BTreeMap::new();
        for (index, factor) in self.unifier.factors.iter().enumerate() {
            let Form::Spelled(atoms) = &factor.form else { continue };
            for &atom in atoms {
                let (places, role) = seen.entry(self.unifier.atoms.find(atom)).or_default();
                role.strengthen(&roles[index]);
                match places.last_mut() {
                    Some((place, count)) if *place == index => *count += 1,
                    _ => places.push((index, 1)),
                }
            }
        }
        let mut classes: BTreeMap<(Vec<(usize, u32)>, Role), Vec<u32>> = BTreeMap::new();
        for (atom, signature) in seen {
            classes.entry(signature).or_default().push(atom);
        }
        for ((_, role), atoms) in classes {
            let id = self.new_factor(Extent::fixed(atoms.len() as u64), role);
            for (index, atom) in (0..).zip(atoms) {
                self.atoms.insert(atom, (id, index));
            }
        }
    }
}

/// Roles of all unknowns, pushed down from merged and concatenated axes to their parts.
fn propagate(unifier: &Unifier) -> Vec<Role> {
    let mut roles: Vec<Role> = unifier.factors.iter().map(|f| f.role.clone()).collect();
    let mut work: Vec<usize> = (0..roles.len()).filter(|&i| roles[i] != Role::Free).collect();
    while let Some(index) = work.pop() {
        let parts: &[Var] = match &unifier.factors[index].form {
            Form::Product(parts) | Form::Sum(parts) => parts,
            Form::Same(next) => std::slice::from_ref(next),
            Form::Unknown | Form::Spelled(_) => &[],
        };
        let role = roles[index].clone();
        for part in parts {
            let slot = &mut roles[part.index()];
            let before = slot.name();
            slot.strengthen(&role);
            if slot.name() != before {
                work.push(part.index());
            }
        }
    }
    roles
}

/// A product or sum with nested ones of its kind flattened, and ones dropped from products.
fn flat(
    parts: impl Iterator<Item = Expr>,
    build: fn(Vec<Expr>) -> Expr,
    open: fn(Expr) -> Result<Vec<Expr>, Expr>,
) -> Expr {
    let mut all = Vec::new();
    for part in parts {
        match open(part) {
            Ok(inner) => all.extend(inner),
            Err(other) => all.push(other),
        }
    }
    match all.len() {
        1 => all.remove(0),
        _ => build(all),
    }
}
