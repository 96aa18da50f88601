//! Operands and attributes that spell out sizes, rebuilt.

use crate::axes::{BINDINGS, Expr, Extent, Selection};
use crate::error::{Error, Result};
use crate::graph::{NodeId, operator};
use crate::onnx::attributes::{position, remove, set_int, set_ints};
use crate::onnx::tensor::{ElementType, from_f64_as};
use crate::ops::{Cut, Edit};

use super::Patch;

/// An entry of an integer list that is known now, or taken from the list as it was computed before.
enum Entry {
    Known(i64),
    /// Entry of the old operand, times `new` over `old`.
    Old {
        operand: usize,
        index: usize,
        new: i64,
        old: i64,
    },
}

impl Patch<'_> {
    /// Rebuilds what `node` spells out, where the selection touches it.
    pub(super) fn edit(&mut self, node: NodeId, selection: &Selection) -> Result<()> {
        let subject = self.subject;
        for edit in &subject.network.relations[node.0].edits {
            let outcome = match edit {
                Edit::Attribute { name, axis } => self.edit_attribute(node, name, axis, selection),
                Edit::Sizes { operand, like, axes, infer } => {
                    self.edit_sizes(node, (*operand, *infer), like, axes, selection)
                }
                Edit::Attributes { name, axes } => self.edit_attributes(node, name, axes, selection),
                Edit::Parts { axes } => self.edit_parts(node, axes, selection),
                Edit::Mean { axes } => self.edit_mean(node, axes, selection),
                Edit::Bounds { cuts } => self.edit_bounds(node, cuts, selection),
                Edit::Indices { operand, axis, result } => self.edit_indices(node, *operand, (axis, result), selection),
            };
            outcome.map_err(|e| e.at_node(subject.graph.node(node).name.as_str()))?;
        }
        Ok(())
    }

    fn is_touched(&self, axes: &[Expr], selection: &Selection) -> bool {
        axes.iter().any(|axis| self.subject.network.solution.is_touched(axis, selection))
    }

    fn extent(&self, axis: &Expr, selection: &Selection) -> Result<Extent> {
        let extent = self.subject.network.solution.extent(axis, selection);
        extent.ok_or_else(|| Error::input("a size is too large"))
    }

    fn fixed(&self, axis: &Expr, selection: &Selection) -> Result<i64> {
        let fixed = self.extent(axis, selection)?.as_fixed().and_then(|n| i64::try_from(n).ok());
        fixed.ok_or_else(|| Error::input("an axis that should be static is dynamic"))
    }

    fn edit_attribute(&mut self, node: NodeId, name: &str, axis: &Expr, selection: &Selection) -> Result<()> {
        if self.is_touched(std::slice::from_ref(axis), selection) {
            let size = self.fixed(axis, selection)?;
            let attribute = self.editor.node_mut(node)?.attribute.iter_mut().find(|a| a.name() == name);
            if let Some(attribute) = attribute {
                attribute.i = Some(size);
            }
        }
        Ok(())
    }

    fn edit_attributes(&mut self, node: NodeId, name: &str, axes: &[Expr], selection: &Selection) -> Result<()> {
        if self.is_touched(axes, selection) {
            let sizes = axes.iter().map(|axis| self.fixed(axis, selection)).collect::<Result<Vec<_>>>()?;
            let target = self.editor.node_mut(node)?;
            remove(target, name);
            set_ints(target, name, &sizes);
        }
        Ok(())
    }

    /// A list of result sizes: known ones as numbers, dynamic ones as `0`, `-1`, or taken from the old list. `axes` are those
    /// of its entries.
    fn edit_sizes(
        &mut self,
        node: NodeId,
        (operand, infer): (usize, bool),
        like: &[Expr],
        axes: &[Expr],
        selection: &Selection,
    ) -> Result<()> {
        if !self.is_touched(axes, selection) && !self.is_touched(like, selection) {
            return Ok(());
        }
        let subject = self.subject;
        let view = subject.graph.node(node);
        let Some(old_value) = view.inputs.get(operand).copied().flatten() else { return Ok(()) };
        let old = subject.facts.at(old_value);
        let allow_zero = self.editor.node_mut(node)?.attribute.iter().any(|a| a.name() == "allowzero" && a.i() != 0);
        let literal = |index: usize| {
            let constant = subject.constant(subject.graph.behind_identity(old_value))?;
            crate::onnx::tensor::TensorView::new(constant).ok()?.to_i64().ok()?.get(index).copied()
        };
        let is_one = |index: usize| {
            (0..BINDINGS).all(|binding| old.ints_under(binding).and_then(|list| list.get(index).copied()) == Some(1))
        };
        let mut entries = Vec::with_capacity(axes.len());
        let mut open = Vec::new();
        for (index, axis) in axes.iter().enumerate() {
            let size = self.extent(axis, selection)?;
            if let Some(fixed) = size.as_fixed() {
                entries.push(Entry::Known(i64::try_from(fixed).unwrap_or(i64::MAX)));
                continue;
            }
            let same = like.get(index).is_some_and(|l| l == axis);
            if infer && !allow_zero && (same || literal(index) == Some(0)) {
                entries.push(Entry::Known(0));
                continue;
            }
            // Where every entry is a size, one that nothing happens to stays as it is, and so does a 1, which follows.
            if !infer && (is_one(index) || !self.is_touched(std::slice::from_ref(axis), selection)) {
                let old = Entry::Old { operand, index, new: 1, old: 1 };
                entries.push(literal(index).map_or(old, Entry::Known));
                continue;
            }
            open.push(index);
            let whole = self.extent(axis, &Selection::all())?;
            let follows = (0..BINDINGS)
                .all(|b| old.ints_under(b).and_then(|v| v.get(index).copied()) == i64::try_from(whole.under(b)).ok());
            if follows && literal(index).is_none() {
                let (new, old) = self.static_part(axis, selection)?;
                entries.push(Entry::Old { operand, index, new, old });
            } else {
                entries.push(Entry::Known(-1));
            }
        }
        if let (true, &[only]) = (infer, &open[..]) {
            entries[only] = Entry::Known(-1);
        }
        let inferred = entries.iter().filter(|e| matches!(e, Entry::Known(-1))).count();
        if inferred > usize::from(infer) {
            return Err(Error::input("a dynamic size cannot be rebuilt; keep this axis with `exclude`"));
        }
        let name = self.add_list(node, "shape", &entries)?;
        self.editor.redirect(node, operand, name)
    }

    /// Product of the static factors of a dynamic axis: `(new, old)`.
    fn static_part(&self, axis: &Expr, selection: &Selection) -> Result<(i64, i64)> {
        let (new, old) = (self.extent(axis, selection)?, self.extent(axis, &Selection::all())?);
        let (new, old) = (new.under(0), old.under(0));
        let divisor = gcd(new, old).max(1);
        let int = |n: u64| i64::try_from(n).map_err(|_| Error::input("a size is too large"));
        Ok((int(new / divisor)?, int(old / divisor)?))
    }

    /// An integer list as an initializer, or computed from the old list where entries are dynamic.
    fn add_list(&mut self, node: NodeId, what: &str, entries: &[Entry]) -> Result<String> {
        let subject = self.subject;
        let stem = format!("{}_{what}", subject.graph.node(node).name);
        let known: Option<Vec<i64>> = entries
            .iter()
            .map(|entry| match entry {
                Entry::Known(n) => Some(*n),
                Entry::Old { .. } => None,
            })
            .collect();
        if let Some(known) = known {
            return Ok(self.editor.add_ints(&stem, &known));
        }
        let mut parts = Vec::new();
        for entry in entries {
            parts.push(match *entry {
                Entry::Known(n) => self.editor.add_ints(&format!("{stem}_size"), &[n]),
                Entry::Old { operand, index, new, old } => {
                    let list = subject.proto()?.node[node.0].input[operand].clone();
                    let at = self.editor.add_ints(&format!("{stem}_index"), &[i64::try_from(index).unwrap_or(0)]);
                    let mut size = self.editor.wire(node, operator("Gather", [list, at]), &format!("{stem}_entry"));
                    for (op, factor) in [("Mul", new), ("Div", old)] {
                        if factor != 1 {
                            let factor = self.editor.add_ints(&format!("{stem}_factor"), &[factor]);
                            size = self.editor.wire(node, operator(op, [size, factor]), &format!("{stem}_scaled"));
                        }
                    }
                    size
                }
            });
        }
        let mut concat = operator("Concat", parts);
        set_int(&mut concat, "axis", 0);
        Ok(self.editor.wire(node, concat, &stem))
    }

    fn edit_parts(&mut self, node: NodeId, axes: &[Expr], selection: &Selection) -> Result<()> {
        if !self.is_touched(axes, selection) {
            return Ok(());
        }
        let sizes = axes.iter().map(|axis| self.fixed(axis, selection)).collect::<Result<Vec<_>>>()?;
        if self.subject.opset() < 13 {
            let target = self.editor.node_mut(node)?;
            remove(target, "split");
            set_ints(target, "split", &sizes);
            return Ok(());
        }
        remove(self.editor.node_mut(node)?, "num_outputs");
        let stem = format!("{}_split", self.subject.graph.node(node).name);
        let name = self.editor.add_ints(&stem, &sizes);
        self.editor.redirect(node, 1, name)
    }

    /// Scales what a mean is taken of by the share of it that stays.
    #[allow(clippy::cast_precision_loss)]
    fn edit_mean(&mut self, node: NodeId, axes: &[Expr], selection: &Selection) -> Result<()> {
        let mut share = 1.0;
        for axis in axes.iter().filter(|axis| self.is_touched(std::slice::from_ref(axis), selection)) {
            share *= self.fixed(axis, selection)? as f64 / self.fixed(axis, &Selection::all())? as f64;
        }
        if share == 1.0 {
            return Ok(());
        }
        let view = self.subject.graph.node(node);
        let element = view.inputs.first().copied().flatten().and_then(|value| self.subject.facts.at(value).element);
        let element = element.map_or(Ok(ElementType::Float), ElementType::from_code)?;
        let stem = format!("{}_share", view.name);
        let factor = self.editor.add(&stem, from_f64_as("", &[], &[share], element)?);
        let data = self.editor.node_mut(node)?.input.first().cloned().unwrap_or_default();
        let scaled = self.editor.wire(node, operator("Mul", [data, factor]), &format!("{}_scaled", view.name));
        self.editor.redirect(node, 0, scaled)
    }

    /// New bounds for the cut axes; the other entries stay as they are.
    fn edit_bounds(&mut self, node: NodeId, cuts: &[Cut<Expr>], selection: &Selection) -> Result<()> {
        let subject = self.subject;
        let touched: Vec<&Cut<Expr>> =
            cuts.iter().filter(|c| subject.network.solution.is_touched(&c.axis, selection)).collect();
        if touched.is_empty() {
            return Ok(());
        }
        let view = subject.graph.node(node);
        let rank = view.inputs[0].and_then(|v| subject.facts.rank(v)).unwrap_or(0);
        let by_operand = subject.opset() >= 10;
        let numbers = self.sliced_axes(node, rank, by_operand)?;
        for cut in touched.iter().filter(|cut| cut.step != 1) {
            self.gather_cut(node, cut, selection)?;
        }
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for (index, number) in numbers.iter().enumerate() {
            let cut = touched.iter().find(|c| c.number == *number);
            let (start, end) = match cut {
                Some(cut) if cut.step != 1 => (Entry::Known(0), Entry::Known(i64::MAX)),
                Some(cut) => self.new_bounds(cut, selection)?,
                None => (self.old_bound(node, 1, index)?, self.old_bound(node, 2, index)?),
            };
            starts.push(start);
            ends.push(end);
        }
        if touched.iter().any(|cut| cut.step != 1) {
            let steps = numbers.iter().enumerate().map(|(index, number)| {
                let gathered = touched.iter().any(|cut| cut.number == *number && cut.step != 1);
                if gathered { Ok(Entry::Known(1)) } else { self.old_bound(node, 4, index) }
            });
            let steps = steps.collect::<Result<Vec<_>>>()?;
            let name = self.add_list(node, "steps", &steps)?;
            self.editor.redirect(node, 4, name)?;
        }
        if by_operand {
            for (operand, what, entries) in [(1, "starts", starts), (2, "ends", ends)] {
                let name = self.add_list(node, what, &entries)?;
                self.editor.redirect(node, operand, name)?;
            }
            return Ok(());
        }
        for (what, entries) in [("starts", starts), ("ends", ends)] {
            let known: Vec<i64> = entries.iter().map(|e| if let Entry::Known(n) = e { *n } else { 0 }).collect();
            let target = self.editor.node_mut(node)?;
            remove(target, what);
            set_ints(target, what, &known);
        }
        Ok(())
    }

    fn sliced_axes(&self, node: NodeId, rank: usize, by_operand: bool) -> Result<Vec<usize>> {
        let view = self.subject.graph.node(node);
        let listed = if by_operand {
            let axes = view.inputs.get(3).copied().flatten();
            axes.map(|value| self.subject.facts.at(value).ints().unwrap_or_default())
        } else {
            let attributes = &self.subject.proto()?.node[node.0].attribute;
            attributes.iter().find(|a| a.name() == "axes").map(|a| a.ints.clone())
        };
        let count = view.inputs.get(1).copied().flatten();
        let count = count.and_then(|v| self.subject.facts.at(v).extents.as_ref()?.first()?.as_fixed()).unwrap_or(rank);
        Ok(match listed {
            None => (0..count).collect(),
            Some(axes) => axes.iter().filter_map(|&axis| position(axis, rank)).collect(),
        })
    }

    /// Where the kept positions of a cut begin and end among all kept positions of its axis.
    fn new_bounds(&self, cut: &Cut<Expr>, selection: &Selection) -> Result<(Entry, Entry)> {
        let flags = self.subject.network.solution.kept_flags(&cut.axis, selection).unwrap_or_default();
        let kept_before = |end: usize| flags.iter().take(end).filter(|&&keep| keep).count();
        let (start, end) = (kept_before(cut.start), kept_before(cut.start + cut.count));
        let entry = |n: usize| i64::try_from(n).map(Entry::Known).map_err(|_| Error::input("a size is too large"));
        Ok((entry(start)?, entry(end)?))
    }

    /// A strided cut of a pruned axis is no longer regular: a `Gather` in front takes what is kept of it.
    fn gather_cut(&mut self, node: NodeId, cut: &Cut<Expr>, selection: &Selection) -> Result<()> {
        let too_large = || Error::input("a size is too large");
        let flags = self.subject.network.solution.kept_flags(&cut.axis, selection).unwrap_or_default();
        let step = isize::try_from(cut.step).map_err(|_| too_large())?;
        let mut indices = Vec::with_capacity(cut.count);
        let mut position = cut.start;
        for _ in 0..cut.count {
            if flags.get(position).copied().unwrap_or(false) {
                let before = flags.iter().take(position).filter(|&&keep| keep).count();
                indices.push(i64::try_from(before).map_err(|_| too_large())?);
            }
            position = position.saturating_add_signed(step);
        }
        let stem = format!("{}_cut", self.subject.graph.node(node).name);
        let indices = self.editor.add_ints(&stem, &indices);
        let data = self.editor.node_mut(node)?.input.first().cloned().unwrap_or_default();
        let mut gather = operator("Gather", [data, indices]);
        set_int(&mut gather, "axis", i64::try_from(cut.number).map_err(|_| too_large())?);
        let gathered = self.editor.wire(node, gather, &stem);
        self.editor.redirect(node, 0, gathered)
    }

    fn old_bound(&self, node: NodeId, operand: usize, index: usize) -> Result<Entry> {
        let view = self.subject.graph.node(node);
        let attribute = if operand == 1 { "starts" } else { "ends" };
        let attributes = &self.subject.proto()?.node[node.0].attribute;
        if let Some(list) = attributes.iter().find(|a| a.name() == attribute) {
            return Ok(Entry::Known(list.ints.get(index).copied().unwrap_or(0)));
        }
        let known = view.inputs.get(operand).copied().flatten();
        let known = known.and_then(|v| self.subject.facts.at(v).ints()).and_then(|v| v.get(index).copied());
        Ok(known.map_or(Entry::Old { operand, index, new: 1, old: 1 }, Entry::Known))
    }

    /// Constant indices: those of kept positions, counted among the kept positions of the indexed axis.
    fn edit_indices(
        &mut self,
        node: NodeId,
        operand: usize,
        (axis, result): (&Expr, &Expr),
        selection: &Selection,
    ) -> Result<()> {
        let subject = self.subject;
        let Some(flags) = subject.network.solution.kept_flags(axis, selection) else { return Ok(()) };
        let value = subject.graph.node(node).inputs.get(operand).copied().flatten();
        let old = value.and_then(|v| subject.facts.at(v).ints()).unwrap_or_default();
        let size = i64::try_from(flags.len()).unwrap_or(i64::MAX);
        let kept = subject.network.solution.kept(result, selection).unwrap_or_else(|| (0..old.len()).collect());
        let mut ranks = Vec::with_capacity(flags.len());
        let mut rank = 0_i64;
        for &keep in &flags {
            ranks.push(rank);
            rank += i64::from(keep);
        }
        let new: Option<Vec<i64>> = kept
            .iter()
            .map(|&k| {
                let position = *old.get(k)?;
                let position = if position < 0 { position + size } else { position };
                ranks.get(usize::try_from(position).ok()?).copied()
            })
            .collect();
        let new = new.ok_or_else(|| Error::input("an index is out of range"))?;
        let stem = format!("{}_indices", subject.graph.node(node).name);
        let name = self.editor.add_ints(&stem, &new);
        self.editor.redirect(node, operand, name)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
