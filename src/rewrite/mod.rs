//! Rewrites a graph for the kept indices of its factors. The input is never touched: a new `ModelProto` comes out,
//! or an error.
//!
//! * every initializer axis that mentions a touched factor is sliced;
//! * small constants are sliced for each use separately, and copied where uses disagree;
//! * sizes that operands and attributes spell out are rebuilt from the algebra (`edits.rs`);
//! * `Shape` keeps returning the old sizes (`shapes.rs`), so nothing else in the file's shape arithmetic changes.

mod chain;
mod edits;
mod mask;
mod shapes;
mod split;

use std::collections::BTreeMap;

use crate::analysis::Subject;
use crate::axes::{Expr, Selection};
use crate::error::{Error, Result};
use crate::graph::{Editor, NodeId, Place, ValueId};
use crate::onnx::proto::{ModelProto, TensorProto, ValueInfoProto, tensor_shape_proto, type_proto};
use crate::onnx::put_aside;
use crate::onnx::tensor::TensorView;
use crate::ops::Network;

pub use mask::masked;
pub(crate) use split::addition_after;
pub use split::{Chain, Split, split};

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
    Ok(patch.editor.finish())
}

/// A rewrite in the making.
struct Patch<'a> {
    subject: Subject<'a>,
    editor: Editor<'a>,
    /// Bytes of sliced weights in memory.
    held: usize,
    /// Weights with zeros: nodes that share a weight share its mask.
    zeroed: BTreeMap<(String, Vec<(usize, Vec<bool>)>), String>,
}

impl<'a> Patch<'a> {
    fn new(subject: Subject<'a>) -> Result<Self> {
        Ok(Self {
            subject,
            editor: Editor::new(subject.model.clone(), subject.graph)?,
            held: 0,
            zeroed: BTreeMap::new(),
        })
    }

    /// Slices the initializers and `Constant` nodes whose axes are the same at every use.
    fn slice_values(&mut self, selection: &Selection) -> Result<()> {
        for index in 0..self.subject.graph.values.len() {
            let value = ValueId(index);
            let Some(tensor) = self.subject.constant(value) else { continue };
            let Some(axes) = self.subject.network.value(value) else { continue };
            let Some(sliced) = self.slice(tensor, axes, selection)? else { continue };
            let sliced = self.hold(sliced)?;
            if let Some(place) = self.subject.graph.place(value) {
                place.write(self.editor.proto_mut(), sliced);
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
        let place = self.subject.graph.place(root);
        let stored = place.map(|place| Ok::<_, Error>(place.read(self.subject.proto()?))).transpose()?.flatten();
        let stored = stored.ok_or_else(|| Error::input(format!("constant '{}' cannot be sliced", value.name)))?;
        let mut sliced = stored.into_owned();
        for (axis, kept) in kept.iter().enumerate() {
            if let Some(kept) = kept {
                sliced = TensorView::new(&sliced)?.take(axis, kept)?;
            }
        }
        if let (true, Some(place @ Place::Initializer(_)), true) = (whole, place, value.captured_by.is_empty()) {
            place.write(self.editor.proto_mut(), sliced);
            return Ok(());
        }
        let name = self.editor.add(&format!("{}_pruned", value.name), sliced);
        places.iter().try_for_each(|&(node, slot)| self.editor.redirect(node, slot, name.clone()))
    }

    /// Declared shapes of touched values follow; graph inputs of old files that are initializers too.
    fn update_declared_shapes(&mut self, selection: &Selection) {
        let subject = self.subject;
        let graph = self.editor.proto_mut();
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
