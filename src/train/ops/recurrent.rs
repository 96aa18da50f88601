//! `GRU`, `LSTM`, `RNN`: step by step on the tape, so that the gradient goes back through time.

use super::elementwise::elementwise;
use super::product::matrices;
use super::scalars as s;
use super::site::Site;
use crate::error::{Error, Result};
use crate::train::kernel::Real;
use crate::train::tape::Tensor;

/// What one direction of an operator reads, `G` gates of `H` hidden values each.
struct Direction<T: Real> {
    /// The input's share of the gates for every step: `[steps · batch, G · H]`.
    gates: Tensor<T>,
    /// `[G · H, H]`.
    recurrent: Tensor<T>,
    /// The bias of the recurrent share, `[1, G · H]`; that of the input's share is in `gates` already.
    bias: Option<Tensor<T>>,
    /// Peepholes, `[1, 3 · H]`.
    peepholes: Option<Tensor<T>>,
    activations: Vec<Activation<T>>,
    hidden: usize,
}

type Activation<T> = fn(&Tensor<T>) -> Result<Tensor<T>>;

/// The hidden state and, for `LSTM`, the cell's.
struct State<T: Real> {
    h: Tensor<T>,
    c: Tensor<T>,
}

type Step<T> = fn(&Site<'_, T>, &Direction<T>, &Tensor<T>, &State<T>) -> Result<State<T>>;

pub(super) fn gru<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    run(site, 3, &["Sigmoid", "Tanh"], gru_step)
}

pub(super) fn lstm<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    run(site, 4, &["Sigmoid", "Tanh", "Tanh"], lstm_step)
}

pub(super) fn rnn<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    run(site, 1, &["Tanh"], rnn_step)
}

/// All directions of a node with `gates` gates, whose activations are by default `standard`.
fn run<T: Real>(site: &Site<'_, T>, gates: usize, standard: &[&'static str], step: Step<T>) -> Result<Vec<Tensor<T>>> {
    if site.attributes.float("clip")?.is_some() || site.int("input_forget", 0)? != 0 {
        return Err(Error::input("clipped and coupled gates (clip, input_forget) have no gradient here"));
    }
    let by_batch = site.int("layout", 0)? != 0;
    let states_first = |x: Tensor<T>| -> Result<Tensor<T>> { Ok(if by_batch { x.transpose(0, 1)? } else { x }) };
    let x = states_first(site.real(0)?)?;
    let &[steps, batch, width] = x.dims() else { return Err(Error::input("the data has three axes")) };
    let whole = i64::try_from(steps).unwrap_or(i64::MAX);
    if site.ints(4)?.is_some_and(|lengths| lengths.iter().any(|&length| length != whole)) {
        return Err(Error::input("sequences of different lengths (sequence_lens) have no gradient here"));
    }
    let (w, r) = (site.real(1)?, site.real(2)?);
    let &[directions, _, hidden] = r.dims() else { return Err(Error::input("the recurrent weight has three axes")) };
    let one = |x: &Tensor<T>, direction: usize| -> Result<Tensor<T>> { x.narrow(0, direction, 1)?.squeeze(0) };
    let row =
        |x: &Tensor<T>, start: usize, length: usize| -> Result<Tensor<T>> { x.narrow(0, start, length)?.unsqueeze(0) };
    let names = match site.attributes.strings("activations")? {
        Some(names) => names,
        None => standard.repeat(directions),
    };
    let initial = |slot: usize, direction: usize| -> Result<Tensor<T>> {
        match site.optional(slot)? {
            Some(state) => one(&states_first(state)?, direction),
            None => Ok(Tensor::filled([batch, hidden], 0.0)),
        }
    };
    let flat = x.reshape([steps * batch, width])?;
    let (mut all, mut last) = (Vec::new(), Vec::new());
    for direction in 0..directions {
        let bias = site.optional(3)?.map(|bias| one(&bias, direction)).transpose()?;
        let input_bias = bias.as_ref().map(|bias| row(bias, 0, gates * hidden)).transpose()?;
        let activations = names.get(direction * standard.len()..).unwrap_or_default().iter().take(standard.len());
        let view = Direction {
            gates: super::contract::add(&matrices(&flat, &one(&w, direction)?, (false, true))?, input_bias.as_ref())?,
            recurrent: one(&r, direction)?,
            bias: bias.as_ref().map(|bias| row(bias, gates * hidden, gates * hidden)).transpose()?,
            peepholes: site.optional(7)?.map(|p| row(&one(&p, direction)?, 0, 3 * hidden)).transpose()?,
            activations: activations.map(|name| activation(name)).collect::<Result<_>>()?,
            hidden,
        };
        if view.activations.len() != standard.len() {
            return Err(Error::input("there are too few activations"));
        }
        let mut state = State { h: initial(5, direction)?, c: initial(6, direction)? };
        let is_backward = match site.text("direction", "forward")? {
            "reverse" => true,
            "bidirectional" => direction == 1,
            _ => false,
        };
        let mut results = Vec::with_capacity(steps);
        for number in 0..steps {
            let at = if is_backward { steps - 1 - number } else { number };
            let gates = view.gates.narrow(0, at * batch, batch)?;
            state = step(site, &view, &gates, &state)?;
            results.push(state.h.clone());
        }
        if is_backward {
            results.reverse();
        }
        all.push(Tensor::stack(&results.iter().collect::<Vec<_>>(), 0)?);
        last.push(state);
    }
    let y = Tensor::stack(&all.iter().collect::<Vec<_>>(), 1)?;
    let ends = |of: fn(&State<T>) -> &Tensor<T>| -> Result<Tensor<T>> {
        let ends: Vec<&Tensor<T>> = last.iter().map(of).collect();
        states_first(Tensor::stack(&ends, 0)?)
    };
    // [steps, directions, batch, hidden], or batch first.
    let y = if by_batch { y.permute(&[2, 0, 1, 3])? } else { y };
    Ok(vec![y, ends(|state| &state.h)?, ends(|state| &state.c)?])
}

fn activation<T: Real>(name: &str) -> Result<Activation<T>> {
    match name.to_ascii_lowercase().as_str() {
        "sigmoid" => Ok(|x| elementwise::<s::Sigmoid, T>(&[x], &[])),
        "tanh" => Ok(|x| elementwise::<s::Tanh, T>(&[x], &[])),
        "relu" => Ok(|x| elementwise::<s::Relu, T>(&[x], &[])),
        _ => Err(Error::input(format!("activation '{name}' has no gradient here"))),
    }
}

fn times<T: Real>(a: &Tensor<T>, b: &Tensor<T>) -> Result<Tensor<T>> {
    a.times(b)
}

fn plus<T: Real>(a: &Tensor<T>, b: &Tensor<T>) -> Result<Tensor<T>> {
    a.plus(b)
}

impl<T: Real> Direction<T> {
    /// `h Rᵀ` and its bias, for the gates `first..first + count`.
    fn recur(&self, h: &Tensor<T>, first: usize, count: usize) -> Result<Tensor<T>> {
        let (start, length) = (first * self.hidden, count * self.hidden);
        let product = matrices(h, &self.recurrent.narrow(0, start, length)?, (false, true))?;
        let bias = self.bias.as_ref().map(|bias| bias.narrow(1, start, length)).transpose()?;
        super::contract::add(&product, bias.as_ref())
    }

    /// Gate number `index` of some.
    fn gate(&self, gates: &Tensor<T>, index: usize) -> Result<Tensor<T>> {
        gates.narrow(1, index * self.hidden, self.hidden)
    }

    /// `gate + p ⊙ c`, where there are peepholes.
    fn peep(&self, gate: Tensor<T>, c: &Tensor<T>, index: usize) -> Result<Tensor<T>> {
        match &self.peepholes {
            Some(p) => plus(&gate, &times(&p.narrow(1, index * self.hidden, self.hidden)?, c)?),
            None => Ok(gate),
        }
    }
}

/// `Hₜ = f(Xₜ Wᵀ + Hₜ₋₁ Rᵀ + b)`.
fn rnn_step<T: Real>(_: &Site<'_, T>, view: &Direction<T>, gates: &Tensor<T>, state: &State<T>) -> Result<State<T>> {
    let h = view.activations[0](&plus(gates, &view.recur(&state.h, 0, 1)?)?)?;
    Ok(State { h, c: state.c.clone() })
}

/// Gates z, r, h: `Hₜ = (1 − z) ⊙ h̃ + z ⊙ Hₜ₋₁`, the reset in front of the recurrent product or behind it
/// (`linear_before_reset`).
fn gru_step<T: Real>(site: &Site<'_, T>, view: &Direction<T>, gates: &Tensor<T>, state: &State<T>) -> Result<State<T>> {
    let both = plus(&gates.narrow(1, 0, 2 * view.hidden)?, &view.recur(&state.h, 0, 2)?)?;
    let z = view.activations[0](&view.gate(&both, 0)?)?;
    let r = view.activations[0](&view.gate(&both, 1)?)?;
    let recurrent = if site.int("linear_before_reset", 0)? == 0 {
        view.recur(&times(&r, &state.h)?, 2, 1)?
    } else {
        times(&r, &view.recur(&state.h, 2, 1)?)?
    };
    let candidate = view.activations[1](&plus(&view.gate(gates, 2)?, &recurrent)?)?;
    let h = plus(&candidate, &times(&z, &state.h.minus(&candidate)?)?)?;
    Ok(State { h, c: state.c.clone() })
}

/// Gates i, o, f, c: `Cₜ = f ⊙ Cₜ₋₁ + i ⊙ c̃`, `Hₜ = o ⊙ h(Cₜ)`.
fn lstm_step<T: Real>(_: &Site<'_, T>, view: &Direction<T>, gates: &Tensor<T>, state: &State<T>) -> Result<State<T>> {
    let all = plus(gates, &view.recur(&state.h, 0, 4)?)?;
    let [f, g, h] = view.activations.as_slice() else { return Err(Error::input("there are too few activations")) };
    let input = f(&view.peep(view.gate(&all, 0)?, &state.c, 0)?)?;
    let forget = f(&view.peep(view.gate(&all, 2)?, &state.c, 2)?)?;
    let candidate = g(&view.gate(&all, 3)?)?;
    let c = plus(&times(&forget, &state.c)?, &times(&input, &candidate)?)?;
    let output = f(&view.peep(view.gate(&all, 1)?, &c, 1)?)?;
    let hidden = times(&output, &h(&c)?)?;
    Ok(State { h: hidden, c })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_are_known_whatever_their_case() {
        assert!(activation::<f32>("tanh").is_ok() && activation::<f32>("Sigmoid").is_ok());
        assert!(activation::<f32>("Affine").unwrap_err().to_string().contains("Affine"));
    }
}
