//! `obd-loss`: `½ Σ w² E[(∂L/∂w)²]` over a unit's weights, optimal brain damage on the loss itself with the diagonal of the
//! empirical Fisher matrix (`LeCun` et al. 1989, "Optimal Brain Damage"). One backward pass for each of up to 256 samples.

use std::collections::BTreeMap;

use super::Context;
use super::gates::{SAMPLES, batches, objective};
use super::magnitude::{Element, unit_sums};
use crate::error::Result;
use crate::train::{Program, Wanted};

pub(super) fn obd_loss(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    let program: Program = Program::new(context.subject.model, Wanted::Parameters(&|_| true))?;
    let mut squares: BTreeMap<&str, Vec<f64>> =
        program.parameters().iter().map(|p| (p.name.as_str(), vec![0.0; p.value.len()])).collect();
    let mut count = 0.0;
    for (first, batch) in batches(context, 1)? {
        let run = program.run(&batch.inputs, 1)?;
        let gradients = objective(context, &run.outputs, batch.labels.as_ref(), first)?.backward()?;
        for (parameter, leaf) in program.parameters().iter().zip(&run.parameters) {
            let Some(gradient) = gradients.of(leaf) else { continue };
            let Some(sums) = squares.get_mut(parameter.name.as_str()) else { continue };
            sums.iter_mut().zip(gradient).for_each(|(sum, &g)| *sum += f64::from(g) * f64::from(g));
        }
        count += 1.0;
        if first + 1 >= SAMPLES {
            break;
        }
    }
    unit_sums(context.subject, context.groups, |name| {
        let squares = squares.get(name);
        move |position, w: Element| {
            let fisher = squares.and_then(|squares| squares.get(position)).copied().unwrap_or(0.0);
            0.5 * w.stored * w.stored * fisher / f64::max(count, 1.0)
        }
    })
}
