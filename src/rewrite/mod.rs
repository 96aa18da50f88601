//! Rewrites a graph for the kept indices of its factors. The input is never touched: a new `ModelProto` comes out,
//! or an error.
//!
//! * every initializer axis that mentions a touched factor is sliced;
//! * small constants are sliced for each use by itself, and copied where uses disagree;
//! * sizes that operands and attributes spell out are rebuilt from the algebra (`edits.rs`);
//! * `Shape` goes on telling the old sizes (`shapes.rs`), so nothing else in the file's shape arithmetic moves.

mod edits;
mod mask;
mod shapes;

use std::collections::{BTreeMap, BTreeSet};

use crate::analysis::Subject;
use crate::axes::{Expr, Selection};
use crate::error::{Error, Result};
use crate::graph::{NodeId, Source, ValueId, bodies, sweep_dead_nodes};
use crate::onnx::proto::{
    GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use crate::onnx::put_aside;
use crate::onnx::tensor::{TensorView, vector_i64};
use crate::ops::Network;

pub use mask::masked;

/// Bytes of sliced weights that are held in memory; further ones are put aside into temporary files.
const HELD_BYTES: usize = 512 << 20;

/// Smallest weight, in bytes, that is put aside.
const PUT_ASIDE: usize = 1 << 20;

/// The model with only the selected indices left.
///
/// # Errors
/// If a tensor cannot be sliced, or a shape operand cannot be rebuilt; the message names the node.
pub fn prune(subject: Subject<'_>, selection: &Selection) -> Result<ModelProto> {
    let mut patch = Patch::new(subject)?;
    patch.slice_values(selection)?;
    patch.slice_private_uses(selection)?;
    for &node in &subject.graph.order {
        patch.edit(node, selection)?;
    }
    patch.keep_shape_values(selection)?;
    patch.update_declared_shapes(selection);
    Ok(patch.finish())
}

/// A rewrite in the making.
struct Patch<'a> {
    subject: Subject<'a>,
    model: ModelProto,
    /// Nodes to put in front of a node of the old graph.
    before: BTreeMap<NodeId, Vec<NodeProto>>,
    added: Vec<TensorProto>,
    /// Values that may have lost their last reader.
    orphans: BTreeSet<String>,
    names: BTreeSet<String>,
    /// Bytes of sliced weights in memory.
    held: usize,
}

impl<'a> Patch<'a> {
    fn new(subject: Subject<'a>) -> Result<Self> {
        subject.proto()?;
        Ok(Self {
            subject,
            model: subject.model.clone(),
            before: BTreeMap::new(),
            added: Vec::new(),
            orphans: BTreeSet::new(),
            names: subject.graph.values.iter().map(|value| value.name.clone()).collect(),
            held: 0,
        })
    }

    fn graph_mut(&mut self) -> Result<&mut GraphProto> {
        self.model.graph.as_mut().ok_or_else(|| Error::input("the file holds no graph"))
    }

    fn node_mut(&mut self, id: NodeId) -> Result<&mut NodeProto> {
        let node = self.model.graph.as_mut().and_then(|graph| graph.node.get_mut(id.0));
        node.ok_or_else(|| Error::input("a node is missing"))
    }

    /// A value name that is not taken, derived from `stem`.
    fn fresh(&mut self, stem: &str) -> String {
        let mut name = stem.to_owned();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            number += 1;
            name = format!("{stem}_{number}");
        }
        name
    }

    /// Adds an initializer with a fresh name and returns the name.
    fn add_tensor(&mut self, stem: &str, mut tensor: TensorProto) -> String {
        let name = self.fresh(stem);
        tensor.name = Some(name.clone());
        self.added.push(tensor);
        name
    }

    fn add_ints(&mut self, stem: &str, values: &[i64]) -> String {
        self.add_tensor(stem, vector_i64("", values))
    }

    /// Lets operand `slot` of `node` read `name` instead.
    fn redirect(&mut self, id: NodeId, slot: usize, name: String) -> Result<()> {
        let node = self.node_mut(id)?;
        while node.input.len() <= slot {
            node.input.push(String::new());
        }
        let old = std::mem::replace(&mut node.input[slot], name);
        if !old.is_empty() {
            self.orphans.insert(old);
        }
        Ok(())
    }

    /// Slices the initializers and `Constant` nodes whose axes are the same at every use.
    fn slice_values(&mut self, selection: &Selection) -> Result<()> {
        for index in 0..self.subject.graph.values.len() {
            let value = ValueId(index);
            let Some(tensor) = self.subject.constant(value) else { continue };
            let Some(axes) = self.subject.network.value(value) else { continue };
            let Some(sliced) = self.slice(tensor, axes, selection)? else { continue };
            let sliced = self.hold(sliced)?;
            match self.subject.graph.at(value).source {
                Source::Initializer { index, .. } => self.graph_mut()?.initializer[index] = sliced,
                Source::Node(node, _) => {
                    let attribute = self.node_mut(node)?.attribute.iter_mut().find(|a| a.name() == "value");
                    if let Some(attribute) = attribute {
                        attribute.t = Some(sliced);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A sliced tensor, its bytes put aside where many are held already.
    fn hold(&mut self, mut tensor: TensorProto) -> Result<TensorProto> {
        let bytes = tensor.raw_data().len();
        if bytes >= PUT_ASIDE && self.held + bytes > HELD_BYTES {
            tensor.raw_data = tensor.raw_data.as_ref().map(put_aside).transpose()?;
        } else {
            self.held += bytes;
        }
        Ok(tensor)
    }

    /// The kept part of a tensor, `None` if all of it is kept.
    fn slice(&self, tensor: &TensorProto, axes: &[Expr], selection: &Selection) -> Result<Option<TensorProto>> {
        let mut sliced: Option<TensorProto> = None;
        for (axis, expr) in axes.iter().enumerate() {
            if let Some(kept) = self.subject.network.solution.kept(expr, selection) {
                let source = sliced.as_ref().unwrap_or(tensor);
                sliced = Some(TensorView::new(source)?.take(axis, &kept)?);
            }
        }
        Ok(sliced)
    }

    /// Small constants: one sliced copy for each distinct set of kept indices.
    fn slice_private_uses(&mut self, selection: &Selection) -> Result<()> {
        type Kept = Vec<Option<Vec<usize>>>;
        let mut uses: BTreeMap<ValueId, BTreeMap<Kept, Vec<(NodeId, usize)>>> = BTreeMap::new();
        for (node, slot, axes) in self.subject.network.private_uses() {
            let Some(value) = self.subject.graph.node(node).inputs.get(slot).copied().flatten() else { continue };
            let root = self.subject.graph.behind_identity(value);
            let kept: Kept = axes.iter().map(|e| self.subject.network.solution.kept(e, selection)).collect();
            uses.entry(root).or_default().entry(kept).or_default().push((node, slot));
        }
        for (root, variants) in uses {
            let whole = variants.len() == 1;
            for (kept, places) in variants {
                if kept.iter().any(Option::is_some) {
                    self.slice_constant(root, &kept, &places, whole)?;
                }
            }
        }
        Ok(())
    }

    /// Slices a small constant: in place if all its uses agree, else as a copy for `places`.
    fn slice_constant(
        &mut self,
        root: ValueId,
        kept: &[Option<Vec<usize>>],
        places: &[(NodeId, usize)],
        whole: bool,
    ) -> Result<()> {
        let value = self.subject.graph.at(root);
        let stored = self.subject.constant(root).cloned().or_else(|| self.subject.listed(root));
        let mut sliced = stored.ok_or_else(|| Error::input(format!("constant '{}' cannot be sliced", value.name)))?;
        for (axis, kept) in kept.iter().enumerate() {
            if let Some(kept) = kept {
                sliced = TensorView::new(&sliced)?.take(axis, kept)?;
            }
        }
        if let (true, Source::Initializer { index, .. }, true) = (whole, value.source, value.captured_by.is_empty()) {
            self.graph_mut()?.initializer[index] = sliced;
            return Ok(());
        }
        let name = self.add_tensor(&format!("{}_pruned", value.name), sliced);
        places.iter().try_for_each(|&(node, slot)| self.redirect(node, slot, name.clone()))
    }

    /// Declared shapes of touched values follow; graph inputs of old files that are initializers too.
    fn update_declared_shapes(&mut self, selection: &Selection) {
        let subject = self.subject;
        let Some(graph) = self.model.graph.as_mut() else { return };
        let stored: BTreeMap<&str, &[i64]> = graph.initializer.iter().map(|t| (t.name(), t.dims.as_slice())).collect();
        let infos = graph.value_info.iter_mut().chain(&mut graph.input).chain(&mut graph.output);
        for info in infos {
            if let Some(dims) = stored.get(info.name()) {
                redeclare(info, dims);
                continue;
            }
            let Some(axes) = subject.graph.value(info.name()).and_then(|v| subject.network.value(v)) else {
                continue;
            };
            resize_declared(info, axes, subject.network, selection);
        }
    }

    /// Puts the new nodes and tensors in, sweeps what nobody reads any more.
    fn finish(mut self) -> ModelProto {
        let old_style = self.model.ir_version() < 4 && !self.added.is_empty();
        if let Some(graph) = self.model.graph.as_mut() {
            if old_style {
                // Before IR version 4 every initializer is an input too; the new ones are not.
                let initialized: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
                graph.input.retain(|input| !initialized.contains(input.name()));
                self.model.ir_version = Some(4);
            }
            graph.initializer.append(&mut self.added);
            if !self.before.is_empty() {
                let mut nodes = Vec::with_capacity(graph.node.len());
                for (index, node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
                    let mut new = self.before.remove(&NodeId(index)).unwrap_or_default();
                    new.iter_mut().for_each(|new| bodies::join_body(new, &node));
                    nodes.extend(new);
                    nodes.push(node);
                }
                graph.node = nodes;
            }
            let removed = sweep_dead_nodes(graph, &self.orphans);
            graph.value_info.retain(|info| !removed.contains(info.name()));
            graph.quantization_annotation.retain(|a| !removed.contains(a.tensor_name()));
        }
        bodies::nested(&self.model).into_owned()
    }
}

/// Lets the declared shape of an initializer say its dimensions.
fn redeclare(info: &mut ValueInfoProto, dims: &[i64]) {
    if let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        for (declared, &size) in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim).zip(dims) {
            declared.value = Some(tensor_shape_proto::dimension::Value::DimValue(size));
        }
    }
}

fn resize_declared(info: &mut ValueInfoProto, axes: &[Expr], network: &Network, selection: &Selection) {
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|t| t.value.as_mut()) else {
        return;
    };
    for (dim, expr) in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim).zip(axes) {
        if !network.solution.is_touched(expr, selection) {
            continue;
        }
        let size = network.solution.extent(expr, selection).and_then(crate::axes::Extent::as_fixed);
        dim.value = size.and_then(|size| i64::try_from(size).ok()).map(tensor_shape_proto::dimension::Value::DimValue);
    }
}
