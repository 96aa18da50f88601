//! The unifier: axes as sums of products of factors, equations between them, and their solution.
//!
//! An axis starts as one unknown factor. An equation `unify(a, b)` says that index *i* of axis *a* and
//! index *i* of axis *b* are the same thing. Factors split where they must:
//!
//! * `k:25088` with `(c:512 hw:49)`: `k` becomes the product `c·hw`;
//! * `d:2304` with `(q:768 + k:768 + v:768)`: `d` becomes the sum of three terms;
//! * `(a + b)` with `(g k)`: `k` divides every term, so `a = (g₁ k)`, `b = (g₂ k)` and `g = (g₁ + g₂)`;
//! * what lines up in neither way is *spelled*: every position names its atom, positions that must go
//!   together share one, and the smaller factors of a spelled product freeze.
//!
//! Row-major order is kept throughout: the first factor of a product is the outermost one.

use petgraph::unionfind::UnionFind;

use super::extent::Extent;
use super::role::{Reason, Role};

/// An unknown of the equations: an axis, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Var(u32);

impl Var {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    pub(super) fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }
}

/// One index of a spelled factor; atoms that were found equal share a representative.
pub(super) type Atom = u32;

/// Longest axis that is spelled out atom by atom; longer ones freeze instead.
const SPELL_LIMIT: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(super) enum Form {
    /// Nothing is known but the size.
    Unknown,
    /// The same as another factor.
    Same(Var),
    /// A merged axis, outermost factor first; at least two, none of size one.
    Product(Vec<Var>),
    /// A concatenation; at least two terms.
    Sum(Vec<Var>),
    /// Position → atom.
    Spelled(Vec<Atom>),
}

#[derive(Debug, Clone)]
pub(super) struct Factor {
    pub(super) extent: Extent,
    pub(super) form: Form,
    pub(super) role: Role,
}

/// Why two axes could not be lined up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// The sizes differ.
    Sizes(Extent, Extent),
    /// A cut falls inside a factor that cannot be spelled out (dynamic, or too long).
    Cut(Extent),
    /// A size is zero, or a product of sizes overflows.
    Degenerate,
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Misfit::Sizes(a, b) => write!(f, "sizes {} and {} do not line up", a.spelled(), b.spelled()),
            Misfit::Cut(extent) => write!(f, "a cut falls inside an axis of size {}", extent.spelled()),
            Misfit::Degenerate => f.write_str("a size is zero or too large"),
        }
    }
}

/// The equations between axes, solved as they come in.
#[derive(Debug, Clone, Default)]
pub struct Unifier {
    /// The node whose equations are added, for reasons.
    pub(crate) node: String,
    pub(super) factors: Vec<Factor>,
    pub(super) atoms: UnionFind<Atom>,
    atom_count: usize,
}

impl Unifier {
    /// No factors, no equations.
    pub fn new() -> Self {
        Self { node: String::new(), factors: Vec::new(), atoms: UnionFind::new_empty(), atom_count: 0 }
    }

    /// A new unknown of size `extent`.
    pub fn factor(&mut self, extent: Extent) -> Var {
        self.push(extent, Form::Unknown)
    }

    /// A merged axis, outermost factor first. Factors of size one are dropped.
    ///
    /// # Errors
    /// If the product of the sizes overflows.
    pub fn product(&mut self, factors: &[Var]) -> Result<Var, Misfit> {
        let mut kept = Vec::with_capacity(factors.len());
        for &factor in factors {
            self.flatten_product(factor, &mut kept);
        }
        let extent = Extent::product(kept.iter().map(|&f| self.extent(f))).ok_or(Misfit::Degenerate)?;
        Ok(match kept.as_slice() {
            [only] => *only,
            [] => self.push(Extent::ONE, Form::Unknown),
            _ => self.push(extent, Form::Product(kept)),
        })
    }

    /// A concatenated axis.
    ///
    /// # Errors
    /// If a term is empty, or the sum of the sizes overflows.
    pub fn sum(&mut self, terms: &[Var]) -> Result<Var, Misfit> {
        let mut total = Extent::fixed(0);
        let mut kept = Vec::with_capacity(terms.len());
        for &term in terms {
            let extent = self.extent(term);
            if extent.is_empty() {
                return Err(Misfit::Degenerate);
            }
            total = total.checked_add(extent).ok_or(Misfit::Degenerate)?;
            self.flatten_sum(term, &mut kept);
        }
        Ok(match kept.as_slice() {
            [only] => *only,
            [] => return Err(Misfit::Degenerate),
            _ => self.push(total, Form::Sum(kept)),
        })
    }

    /// An axis whose position `p` is position `positions[p]` of `source`.
    ///
    /// # Errors
    /// If `source` cannot be spelled out, or a position is beyond its end.
    pub fn select(&mut self, source: Var, positions: &[usize]) -> Result<Var, Misfit> {
        let atoms = self.spell(source)?;
        let picked: Option<Vec<Atom>> = positions.iter().map(|&p| atoms.get(p).copied()).collect();
        let picked = picked.filter(|p| !p.is_empty()).ok_or(Misfit::Degenerate)?;
        Ok(self.push(Extent::fixed(picked.len() as u64), Form::Spelled(picked)))
    }

    /// Size of a factor.
    pub fn extent(&self, factor: Var) -> Extent {
        self.factors[factor.index()].extent
    }

    /// Gives every index of `factor` at least the role `role`.
    pub fn mark(&mut self, factor: Var, role: &Role) {
        let root = self.root(factor);
        self.factors[root.index()].role.strengthen(role);
    }

    /// Forbids removal of any index of `factor`.
    pub fn freeze(&mut self, factor: Var, reason: Reason) {
        self.mark(factor, &Role::Frozen(reason));
    }

    /// Adds the equation `a = b`. Axes of size one broadcast and couple nothing.
    ///
    /// # Errors
    /// If the two do not line up; what was already unified stays so, and the caller freezes both.
    pub fn unify(&mut self, a: Var, b: Var) -> Result<(), Misfit> {
        let (a, b) = (self.root(a), self.root(b));
        if a == b {
            return Ok(());
        }
        let (size_a, size_b) = (self.extent(a), self.extent(b));
        if size_a != size_b {
            return Err(Misfit::Sizes(size_a, size_b));
        }
        if size_a.is_empty() {
            return Err(Misfit::Degenerate);
        }
        if size_a.is_one() {
            return Ok(());
        }
        match (self.form(a), self.form(b)) {
            (Form::Unknown, _) => self.link(a, b),
            (_, Form::Unknown) => self.link(b, a),
            (Form::Spelled(_), _) | (_, Form::Spelled(_)) => return self.unify_spelled(a, b),
            (Form::Product(_), Form::Product(_)) => return self.align_products(a, b),
            (Form::Sum(_), Form::Sum(_)) => return self.align_sums(a, b),
            (Form::Sum(_), Form::Product(_)) => return self.factor_out(a, b),
            (Form::Product(_), Form::Sum(_)) => return self.factor_out(b, a),
            (Form::Same(_), _) | (_, Form::Same(_)) => {}
        }
        Ok(())
    }

    pub(super) fn root(&self, mut factor: Var) -> Var {
        while let Form::Same(next) = self.factors[factor.index()].form {
            factor = next;
        }
        factor
    }

    fn form(&self, root: Var) -> Form {
        self.factors[root.index()].form.clone()
    }

    fn push(&mut self, extent: Extent, form: Form) -> Var {
        let id = Var::from_index(self.factors.len());
        self.factors.push(Factor { extent, form, role: Role::Free });
        id
    }

    fn link(&mut self, from: Var, to: Var) {
        let role = self.factors[from.index()].role.clone();
        self.factors[from.index()].form = Form::Same(to);
        self.factors[to.index()].role.strengthen(&role);
    }

    /// Factors of a product, nested ones flattened, those of size one dropped.
    fn flatten_product(&self, factor: Var, into: &mut Vec<Var>) {
        let root = self.root(factor);
        match &self.factors[root.index()].form {
            Form::Product(parts) => parts.iter().for_each(|&part| self.flatten_product(part, into)),
            _ if self.extent(root).is_one() => {}
            _ => into.push(root),
        }
    }

    fn flatten_sum(&self, factor: Var, into: &mut Vec<Var>) {
        let root = self.root(factor);
        match &self.factors[root.index()].form {
            Form::Sum(terms) => terms.iter().for_each(|&term| self.flatten_sum(term, into)),
            _ => into.push(root),
        }
    }

    /// `(p₁ p₂ …) = (q₁ q₂ …)`: walk both from the outermost factor, splitting the larger one; what does not line up there, from
    /// the innermost one as far as sizes are equal. The middle is spelled, or freezes if it cannot be.
    fn align_products(&mut self, a: Var, b: Var) -> Result<(), Misfit> {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        self.flatten_product(a, &mut left);
        self.flatten_product(b, &mut right);
        let Some((mut left, mut right)) = self.align(left, right, Self::split_outer)? else { return Ok(()) };
        while let (Some(&x), Some(&y)) = (left.last(), right.last())
            && self.extent(x) == self.extent(y)
        {
            self.unify(x, y)?;
            left.pop();
            right.pop();
        }
        let (middle_a, middle_b) = (self.product(&left)?, self.product(&right)?);
        match self.unify_spelled(middle_a, middle_b) {
            Err(cut @ Misfit::Cut(_)) => {
                let reason = Reason::new(self.node.as_str(), cut.to_string());
                left.into_iter().chain(right).for_each(|factor| self.freeze(factor, reason.clone()));
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// `(t₁ + t₂ + …) = (u₁ + u₂ + …)`: walk both, cutting the longer term.
    fn align_sums(&mut self, a: Var, b: Var) -> Result<(), Misfit> {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        self.flatten_sum(a, &mut left);
        self.flatten_sum(b, &mut right);
        match self.align(left, right, Self::split_head)? {
            None => Ok(()),
            Some((x, y)) => {
                let size = |terms: &[Var]| terms.first().map_or(Extent::fixed(0), |&term| self.extent(term));
                Err(Misfit::Sizes(size(&x), size(&y)))
            }
        }
    }

    /// Unifies the parts of two equally large axes one by one. Where sizes differ, `split` writes the larger part as
    /// the smaller one and a rest; returns the remainders of both if it cannot.
    fn align(
        &mut self,
        mut left: Vec<Var>,
        mut right: Vec<Var>,
        split: fn(&mut Self, Var, Var) -> Result<Option<Var>, Misfit>,
    ) -> Result<Option<(Vec<Var>, Vec<Var>)>, Misfit> {
        left.reverse();
        right.reverse();
        while let (Some(x), Some(y)) = (left.pop(), right.pop()) {
            let sizes = (self.extent(x), self.extent(y));
            if sizes.0 == sizes.1 {
                self.unify(x, y)?;
            } else if let Some(rest) = split(self, y, x)? {
                right.push(rest);
            } else if let Some(rest) = split(self, x, y)? {
                left.push(rest);
            } else {
                let whole = |rest: Vec<Var>, at| std::iter::once(at).chain(rest.into_iter().rev()).collect();
                return Ok(Some((whole(left, x), whole(right, y))));
            }
        }
        Ok(None)
    }

    /// Writes `whole` as `(outer rest)` and returns the rest; `None` if the size of `outer` does not divide it.
    fn split_outer(&mut self, whole: Var, outer: Var) -> Result<Option<Var>, Misfit> {
        let Some(rest) = self.extent(whole).div_exact(self.extent(outer)) else { return Ok(None) };
        let rest = self.factor(rest);
        let product = self.product(&[outer, rest])?;
        self.unify(whole, product)?;
        Ok(Some(rest))
    }

    /// Writes `whole` as `(head + rest)` and returns the rest; `None` if `head` is not shorter.
    fn split_head(&mut self, whole: Var, head: Var) -> Result<Option<Var>, Misfit> {
        let at = self.extent(head);
        if !at.is_below(self.extent(whole)) {
            return Ok(None);
        }
        let (first, rest) = self.cut(whole, at)?;
        self.unify(head, first)?;
        Ok(Some(rest))
    }

    /// `(t₁ + t₂ + …) = (p₁ p₂ …)`: the inner factors divide every term, the outermost is a sum.
    fn factor_out(&mut self, sum: Var, product: Var) -> Result<(), Misfit> {
        let (mut terms, mut parts) = (Vec::new(), Vec::new());
        self.flatten_sum(sum, &mut terms);
        self.flatten_product(product, &mut parts);
        let Some((&outer, inner)) = parts.split_first() else { return Err(Misfit::Degenerate) };
        let inner = self.product(inner)?;
        let size = self.extent(inner);
        let counts: Option<Vec<Extent>> = terms.iter().map(|&t| self.extent(t).div_exact(size)).collect();
        let Some(counts) = counts else { return self.unify_spelled(sum, product) };
        let mut groups = Vec::with_capacity(terms.len());
        for (term, count) in terms.into_iter().zip(counts) {
            let group = self.factor(count);
            let whole = self.product(&[group, inner])?;
            self.unify(term, whole)?;
            groups.push(group);
        }
        let groups = self.sum(&groups)?;
        self.unify(outer, groups)
    }

    /// Writes `factor` as a concatenation whose first part has size `at`, and returns both parts.
    fn cut(&mut self, factor: Var, at: Extent) -> Result<(Var, Var), Misfit> {
        let root = self.root(factor);
        let extent = self.extent(root);
        let rest = extent.checked_sub(at).filter(|r| !r.is_empty()).ok_or(Misfit::Sizes(extent, at))?;
        match self.form(root) {
            Form::Unknown => {
                let (head, tail) = (self.factor(at), self.factor(rest));
                let sum = self.sum(&[head, tail])?;
                self.link(root, sum);
                Ok((head, tail))
            }
            Form::Product(parts) => self.cut_product(root, &parts, at),
            Form::Spelled(atoms) => {
                let at_fixed = at.as_fixed().ok_or(Misfit::Cut(extent))?;
                let (head, tail) = atoms.split_at_checked(at_fixed).ok_or(Misfit::Cut(extent))?;
                let (head, tail) = (head.to_vec(), tail.to_vec());
                Ok((self.push(at, Form::Spelled(head)), self.push(rest, Form::Spelled(tail))))
            }
            Form::Sum(_) => {
                let (head, tail) = (self.factor(at), self.factor(rest));
                let sum = self.sum(&[head, tail])?;
                self.unify(root, sum)?;
                Ok((head, tail))
            }
            Form::Same(_) => Err(Misfit::Degenerate),
        }
    }

    /// A cut at a multiple of the inner size cuts the outermost factor; any other one is spelled out.
    fn cut_product(&mut self, root: Var, parts: &[Var], at: Extent) -> Result<(Var, Var), Misfit> {
        let Some((&outer, inner)) = parts.split_first() else { return Err(Misfit::Degenerate) };
        let inner = self.product(inner)?;
        match at.div_exact(self.extent(inner)) {
            Some(outer_at) => {
                let (head, tail) = self.cut(outer, outer_at)?;
                Ok((self.product(&[head, inner])?, self.product(&[tail, inner])?))
            }
            None => {
                self.spell(root)?;
                self.cut(root, at)
            }
        }
    }

    fn unify_spelled(&mut self, a: Var, b: Var) -> Result<(), Misfit> {
        let (atoms_a, atoms_b) = (self.spell(a)?, self.spell(b)?);
        for (&x, &y) in atoms_a.iter().zip(&atoms_b) {
            self.atoms.union(x, y);
        }
        Ok(())
    }

    /// Position → atom of a factor. The largest factor of a product is spelled and repeated, the others freeze.
    fn spell(&mut self, factor: Var) -> Result<Vec<Atom>, Misfit> {
        let root = self.root(factor);
        let extent = self.extent(root);
        let size = extent.as_fixed().filter(|&n| n <= SPELL_LIMIT).ok_or(Misfit::Cut(extent))?;
        let atoms = match self.form(root) {
            Form::Spelled(atoms) => return Ok(atoms),
            Form::Unknown => (0..size).map(|_| self.new_atom()).collect(),
            Form::Sum(terms) => {
                let mut atoms = Vec::with_capacity(size);
                for term in terms {
                    atoms.extend(self.spell(term)?);
                }
                atoms
            }
            Form::Product(parts) => self.spell_product(&parts, size)?,
            Form::Same(_) => return Err(Misfit::Degenerate),
        };
        self.factors[root.index()].form = Form::Spelled(atoms.clone());
        Ok(atoms)
    }

    fn spell_product(&mut self, parts: &[Var], size: usize) -> Result<Vec<Atom>, Misfit> {
        let mut parts_flat = Vec::new();
        parts.iter().for_each(|&part| self.flatten_product(part, &mut parts_flat));
        let sizes: Vec<usize> = parts_flat.iter().map(|&p| self.extent(p).as_fixed().unwrap_or(0)).collect();
        let largest = (0..sizes.len()).max_by_key(|&i| (sizes[i], std::cmp::Reverse(i)));
        let Some(largest) = largest else { return Err(Misfit::Degenerate) };
        for (i, &part) in parts_flat.iter().enumerate() {
            if i != largest {
                self.freeze(part, Reason::new(self.node.as_str(), "its indices are permuted across another axis"));
            }
        }
        let inner: usize = sizes[largest + 1..].iter().product();
        let atoms = self.spell(parts_flat[largest])?;
        Ok((0..size).map(|p| atoms[(p / inner.max(1)) % sizes[largest].max(1)]).collect())
    }

    fn new_atom(&mut self) -> Atom {
        self.atom_count += 1;
        self.atoms.new_set()
    }
}
