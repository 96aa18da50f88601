//! Shape analysis that knows a value's size before tract allocates it.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::{anyhow, bail, ensure};

/// Runs tract's shape and type inference to its fixed point, and fails as soon as some value needs more than `limit` bytes.
///
/// tract evaluates an operator as soon as all its inputs are known: `ConstantOfShape([10⁶, 10⁶])` would be
/// filled during the analysis. Here the shape rules alone are asked first.
pub(super) fn analyse_within(model: &mut InferenceModel, limit: u64) -> TractResult<()> {
    let mut pending: BTreeSet<usize> = (0..model.nodes().len()).collect();
    while let Some(id) = pending.pop_first() {
        let changed = analyse_node(model, id, limit)
            .map_err(|error| error.context(format!("Failed analyse for node {}", model.node(id))))?;
        for outlet in changed {
            pending.extend(model.outlet_successors(outlet).iter().map(|inlet| inlet.node).filter(|&node| node != id));
            if outlet.node != id {
                pending.insert(outlet.node);
            }
        }
    }
    Ok(())
}

/// One step of the analysis: the outlets about which it learned something.
fn analyse_node(model: &mut InferenceModel, id: usize, limit: u64) -> TractResult<Vec<OutletId>> {
    let (inputs, outputs) = model.node_facts(id)?;
    let inputs: Vec<InferenceFact> = inputs.into_iter().cloned().collect();
    let outputs: Vec<InferenceFact> = outputs.into_iter().cloned().collect();
    let observed_outlets = model.node(id).op.observe_outlets(model, model.node(id))?;
    let observed = observed_outlets.iter().map(|&o| model.outlet_fact(o).cloned()).collect::<TractResult<Vec<_>>>()?;
    let op = &mut model.node_mut(id).op;
    ensure!(
        outputs.len() == op.nboutputs()?,
        "the operator has {} outputs, the node {}",
        op.nboutputs()?,
        outputs.len()
    );
    if !inputs.is_empty() && inputs.iter().all(|fact| fact.value.is_concrete()) {
        let (_, sizes, _) = op.infer_facts(refs(&inputs), refs(&outputs), refs(&observed))?;
        sizes.iter().try_for_each(|fact| check_size(fact, limit))?;
    }
    let (new_inputs, new_outputs, new_observed) = op.infer(refs(&inputs), refs(&outputs), refs(&observed))?;
    new_outputs.iter().try_for_each(|fact| check_size(fact, limit))?;

    let node = model.node(id);
    let learned = (node.inputs.iter().copied().zip(new_inputs))
        .chain((0..outputs.len()).map(|slot| OutletId::new(id, slot)).zip(new_outputs))
        .chain(observed_outlets.into_iter().zip(new_observed))
        .collect::<Vec<_>>();
    let mut changed = Vec::new();
    for (outlet, fact) in learned {
        let old = model.outlet_fact(outlet)?;
        let unified = fact.unify(old)?;
        if unified != *old {
            model.set_outlet_fact(outlet, unified)?;
            changed.push(outlet);
        }
    }
    Ok(changed)
}

fn refs(facts: &[InferenceFact]) -> TVec<&InferenceFact> {
    facts.iter().collect()
}

fn check_size(fact: &InferenceFact, limit: u64) -> TractResult<()> {
    let Some(shape) = fact.shape.as_concrete_finite()? else { return Ok(()) };
    let element = fact.datum_type.concretize().map_or(1, |dt| dt.size_of());
    let bytes = shape.iter().try_fold(element as u64, |product, &size| product.checked_mul(size as u64));
    match bytes {
        Some(bytes) if bytes <= limit => Ok(()),
        _ => bail!("a value of shape {shape:?} exceeds the limit of {} MB for one value", limit / 1_000_000),
    }
}

/// Bytes of the values that a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Most that are alive at one time when the model runs in its natural order.
    pub(super) peak: u64,
    /// All of them.
    pub(super) total: u64,
}

/// Bytes of the values that `model` computes; constants are not counted. `None` when some size is still unknown.
pub(super) fn sizes(model: &TypedModel) -> TractResult<Option<Sizes>> {
    let order = model.eval_order()?;
    let mut last_use: BTreeMap<OutletId, usize> = BTreeMap::new();
    for (step, &id) in order.iter().enumerate() {
        for &input in &model.node(id).inputs {
            last_use.insert(input, step);
        }
    }
    for &output in model.output_outlets()? {
        last_use.insert(output, order.len());
    }
    let mut freed_at: BTreeMap<usize, u64> = BTreeMap::new();
    let (mut live, mut peak, mut total) = (0_u64, 0_u64, 0_u64);
    for (step, &id) in order.iter().enumerate() {
        for (slot, outlet) in model.node(id).outputs.iter().enumerate() {
            if outlet.fact.konst.is_some() {
                continue;
            }
            let Some(volume) = outlet.fact.shape.volume().to_i64().ok().and_then(|v| u64::try_from(v).ok()) else {
                return Ok(None);
            };
            let bytes = volume
                .checked_mul(outlet.fact.datum_type.size_of() as u64)
                .ok_or_else(|| anyhow!("a value's size overflows"))?;
            live = live.saturating_add(bytes);
            total = total.saturating_add(bytes);
            *freed_at.entry(last_use.get(&OutletId::new(id, slot)).copied().unwrap_or(step)).or_default() += bytes;
        }
        peak = peak.max(live);
        live -= freed_at.remove(&step).unwrap_or(0);
    }
    Ok(Some(Sizes { peak, total }))
}
