//! The axis algebra by itself: removing indices and then running an operator gives the same tensor as running the operator
//! and then removing, for random tensors and random chains of operators that move, merge, split and join axes.

#![allow(clippy::cast_possible_truncation)] // numbers of a few hundred

use paredown::internals::axes::{Extent, Misfit, Reason, Role, Selection, Solution, Solver, Unifier, Var};
use proptest::prelude::*;

/// A tensor whose elements are all different, or are made of such.
#[derive(Debug, Clone, PartialEq)]
struct Array {
    shape: Vec<usize>,
    /// Row-major; an element is the list of the original ones that it is computed from.
    elements: Vec<Vec<u32>>,
}

#[derive(Debug, Clone)]
enum Op {
    Reshape,
    Transpose(Vec<usize>),
    Concat(usize),
    Slice { axis: usize, from: usize, to: usize },
    Gather { axis: usize, positions: Vec<usize> },
    Add,
}

/// A step of a random chain: which operator, on which tensors, with which parameters.
#[derive(Debug, Clone)]
struct Step {
    kind: u8,
    tensor: usize,
    choices: Vec<usize>,
}

/// Tensors, their axes in the algebra, and the operators between them.
struct Net {
    unifier: Unifier,
    arrays: Vec<Array>,
    axes: Vec<Vec<Var>>,
    nodes: Vec<(Op, Vec<usize>, usize)>,
    next: u32,
}

fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
}

impl Array {
    /// The element at each place of `shape`, which `from` maps to a place of this tensor.
    fn pick(&self, shape: Vec<usize>, from: impl Fn(&[usize]) -> Vec<usize>) -> Array {
        let (inner, outer) = (strides(&shape), strides(&self.shape));
        let place = |flat: usize| -> Vec<usize> { inner.iter().zip(&shape).map(|(s, n)| flat / s % n).collect() };
        let count = shape.iter().product();
        let flat = |at: Vec<usize>| -> usize { at.iter().zip(&outer).map(|(i, s)| i * s).sum() };
        let elements = (0..count).map(|i| self.elements[flat(from(&place(i)))].clone()).collect();
        Array { shape, elements }
    }

    /// The positions that stay, on every axis.
    fn sliced(&self, kept: &[Vec<usize>]) -> Array {
        self.pick(kept.iter().map(Vec::len).collect(), |at| at.iter().zip(kept).map(|(&i, kept)| kept[i]).collect())
    }
}

impl Op {
    /// The operator itself. What it knows of sizes is taken from `result`, the shape that its result is to have.
    fn run(&self, inputs: &[&Array], result: &[usize], kept: &[Vec<usize>]) -> Array {
        let data = inputs[0];
        match self {
            Op::Reshape => Array { shape: result.to_vec(), elements: data.elements.clone() },
            Op::Transpose(order) => data.pick(order.iter().map(|&axis| data.shape[axis]).collect(), |at| {
                let mut from = vec![0; at.len()];
                order.iter().zip(at).for_each(|(&axis, &i)| from[axis] = i);
                from
            }),
            Op::Concat(axis) => {
                let (first, second) = (data, inputs[1]);
                let joint = |i: usize| i.checked_sub(first.shape[*axis]);
                let mut shape = first.shape.clone();
                shape[*axis] += second.shape[*axis];
                let (inner, count) = (strides(&shape), shape.iter().product());
                let element = |flat: usize| {
                    let mut at: Vec<usize> = inner.iter().zip(&shape).map(|(s, n)| flat / s % n).collect();
                    let source = match joint(at[*axis]) {
                        Some(rest) => {
                            at[*axis] = rest;
                            second
                        }
                        None => first,
                    };
                    let flat: usize = at.iter().zip(strides(&source.shape)).map(|(i, s)| i * s).sum();
                    source.elements[flat].clone()
                };
                Array { elements: (0..count).map(element).collect(), shape }
            }
            // The new bounds are what a rewrite writes into the file: where the kept part of the range begins and ends.
            Op::Slice { axis, from, to } => {
                let kept = &kept[*axis];
                let start = kept.iter().filter(|&&i| i < *from).count();
                let end = kept.iter().filter(|&&i| i < *to).count();
                let mut shape = data.shape.clone();
                shape[*axis] = end - start;
                data.pick(shape, |at| {
                    at.iter().enumerate().map(|(a, &i)| i + if a == *axis { start } else { 0 }).collect()
                })
            }
            // The list of positions loses those that went, and counts in what is left.
            Op::Gather { axis, positions } => {
                let kept = &kept[*axis];
                let now: Vec<usize> = positions.iter().filter_map(|p| kept.iter().position(|k| k == p)).collect();
                let mut shape = data.shape.clone();
                shape[*axis] = now.len();
                data.pick(shape, |at| {
                    at.iter().enumerate().map(|(a, &i)| if a == *axis { now[i] } else { i }).collect()
                })
            }
            Op::Add => {
                assert_eq!(data.shape, inputs[1].shape, "an addition needs equal shapes");
                let sums = data.elements.iter().zip(&inputs[1].elements);
                Array {
                    shape: data.shape.clone(),
                    elements: sums.map(|(a, b)| [a.clone(), b.clone()].concat()).collect(),
                }
            }
        }
    }
}

impl Net {
    fn new() -> Self {
        Net { unifier: Unifier::new(), arrays: Vec::new(), axes: Vec::new(), nodes: Vec::new(), next: 0 }
    }

    /// A tensor that nothing computes.
    fn source(&mut self, shape: &[usize]) -> usize {
        let count: usize = shape.iter().product();
        let elements = (self.next..self.next + count as u32).map(|id| vec![id]).collect();
        self.next += count as u32;
        self.tensor(Array { shape: shape.to_vec(), elements })
    }

    fn tensor(&mut self, array: Array) -> usize {
        let axes = array.shape.iter().map(|&size| self.unifier.factor(Extent::fixed(size as u64))).collect();
        self.axes.push(axes);
        self.arrays.push(array);
        self.arrays.len() - 1
    }

    /// Adds an operator, its equations, and its result; what does not line up is frozen, as the rules do.
    fn node(&mut self, op: Op, inputs: &[usize], result: &[usize]) -> usize {
        let whole: Vec<Vec<usize>> = self.arrays[inputs[0]].shape.iter().map(|&n| (0..n).collect()).collect();
        let arrays: Vec<&Array> = inputs.iter().map(|&i| &self.arrays[i]).collect();
        let array = op.run(&arrays, result, &whole);
        assert_eq!(array.shape, result);
        let output = self.tensor(array);
        if self.relate(&op, inputs, output).is_err() {
            for &tensor in inputs.iter().chain([&output]) {
                self.axes[tensor].iter().for_each(|&axis| self.unifier.freeze(axis, Reason::new("node", "misfit")));
            }
        }
        self.nodes.push((op, inputs.to_vec(), output));
        output
    }

    fn relate(&mut self, op: &Op, inputs: &[usize], output: usize) -> Result<(), Misfit> {
        let (data, result) = (self.axes[inputs[0]].clone(), self.axes[output].clone());
        let unifier = &mut self.unifier;
        let tie_others = |unifier: &mut Unifier, other: &[Var], but: Option<usize>| {
            let pairs = other.iter().zip(&result).enumerate().filter(|(axis, _)| Some(*axis) != but);
            pairs.into_iter().try_for_each(|(_, (&a, &b))| unifier.unify(a, b))
        };
        match op {
            Op::Reshape => {
                let (before, after) = (unifier.product(&data)?, unifier.product(&result)?);
                unifier.unify(before, after)
            }
            Op::Transpose(order) => {
                order.iter().zip(&result).try_for_each(|(&from, &to)| unifier.unify(data[from], to))
            }
            Op::Concat(axis) => {
                let second = self.axes[inputs[1]].clone();
                tie_others(unifier, &data, Some(*axis))?;
                tie_others(unifier, &second, Some(*axis))?;
                let joint = unifier.sum(&[data[*axis], second[*axis]])?;
                unifier.unify(joint, result[*axis])
            }
            Op::Slice { axis, from, to } => {
                tie_others(unifier, &data, Some(*axis))?;
                let size = self.arrays[inputs[0]].shape[*axis];
                let part = |n: usize| (n > 0).then(|| Extent::fixed(n as u64));
                let (head, tail) = (part(*from), part(size - to));
                let head = head.map(|extent| unifier.factor(extent));
                let tail = tail.map(|extent| unifier.factor(extent));
                let parts: Vec<Var> = head.into_iter().chain([result[*axis]]).chain(tail).collect();
                let whole = unifier.sum(&parts)?;
                unifier.unify(data[*axis], whole)
            }
            Op::Gather { axis, positions } => {
                tie_others(unifier, &data, Some(*axis))?;
                let picked = unifier.select(data[*axis], positions)?;
                unifier.unify(picked, result[*axis])
            }
            Op::Add => {
                tie_others(unifier, &data, None)?;
                let second = self.axes[inputs[1]].clone();
                tie_others(unifier, &second, None)
            }
        }
    }

    /// Carries out one random step.
    fn step(&mut self, step: &Step) {
        let tensor = step.tensor % self.arrays.len();
        let shape = self.arrays[tensor].shape.clone();
        let axis = step.choices[0] % shape.len();
        let mut result = shape.clone();
        match step.kind % 8 {
            // Reshapes are what the algebra is for.
            0..=2 => {
                let result = regrouped(shape.iter().product(), &step.choices);
                self.node(Op::Reshape, &[tensor], &result);
            }
            3 => {
                let order = permutation(shape.len(), &step.choices);
                let result: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
                self.node(Op::Transpose(order), &[tensor], &result);
            }
            4 => {
                let mut other = shape.clone();
                other[axis] = 1 + step.choices[1] % 4;
                let second = if step.choices[2].is_multiple_of(2) { self.source(&other) } else { tensor };
                result[axis] += self.arrays[second].shape[axis];
                if result.iter().product::<usize>() <= LARGEST {
                    self.node(Op::Concat(axis), &[tensor, second], &result);
                }
            }
            5 => {
                let from = step.choices[1] % shape[axis];
                let to = from + 1 + step.choices[2] % (shape[axis] - from);
                result[axis] = to - from;
                self.node(Op::Slice { axis, from, to }, &[tensor], &result);
            }
            6 => {
                let positions: Vec<usize> = permutation(shape[axis], &step.choices[1..]);
                self.node(Op::Gather { axis, positions }, &[tensor], &result);
            }
            _ => {
                let same: Vec<usize> = (0..self.arrays.len()).filter(|&i| self.arrays[i].shape == shape).collect();
                let second = same[step.choices[1] % same.len()];
                self.node(Op::Add, &[tensor, second], &result);
            }
        }
    }

    /// Runs every operator on sliced operands and compares with its sliced result. Returns how many positions went.
    fn check(&self, choices: &[bool]) -> usize {
        let mut solver = Solver::new(&self.unifier);
        let exprs: Vec<Vec<_>> =
            self.axes.iter().map(|axes| axes.iter().map(|&axis| solver.expr(axis)).collect()).collect();
        let solution = solver.finish();
        let selection = selection(&solution, choices);
        let kept = |tensor: usize| -> Vec<Vec<usize>> {
            let axes = exprs[tensor].iter().zip(&self.arrays[tensor].shape);
            axes.map(|(expr, &size)| {
                let kept = solution.kept(expr, &selection).unwrap_or_else(|| (0..size).collect());
                let size = solution.extent(expr, &selection).and_then(Extent::as_fixed);
                assert_eq!(size, Some(kept.len()), "the size of an axis is how many of its positions are kept");
                kept
            })
            .collect()
        };
        for (op, inputs, output) in &self.nodes {
            let sliced: Vec<Array> = inputs.iter().map(|&i| self.arrays[i].sliced(&kept(i))).collect();
            let expected = self.arrays[*output].sliced(&kept(*output));
            let found = op.run(&sliced.iter().collect::<Vec<_>>(), &expected.shape, &kept(inputs[0]));
            assert_eq!(found, expected, "{op:?} on {:?}", self.arrays[inputs[0]].shape);
        }
        let gone = |tensor: usize| -> usize {
            kept(tensor).iter().zip(&self.arrays[tensor].shape).map(|(kept, size)| size - kept.len()).sum()
        };
        (0..self.arrays.len()).map(gone).sum()
    }
}

/// Tensors do not grow beyond so many elements.
const LARGEST: usize = 600;

/// Of every free factor, the indices whose choice is true, and always one.
fn selection(solution: &Solution, choices: &[bool]) -> Selection {
    let mut selection = Selection::all();
    let mut choices = choices.iter().copied().cycle();
    for (id, factor) in (0..).map(paredown::internals::axes::FactorId).zip(&solution.factors) {
        let Some(size) = factor.extent.as_fixed() else { continue };
        if factor.role == Role::Free {
            let mut flags: Vec<bool> = choices.by_ref().take(size).collect();
            if !flags.contains(&true) {
                flags[0] = true;
            }
            selection.keep(id, flags);
        }
    }
    selection
}

/// A random shape of `count` elements.
fn regrouped(count: usize, choices: &[usize]) -> Vec<usize> {
    let (mut shape, mut rest) = (Vec::new(), count);
    for &choice in choices.iter().take(3) {
        let divisors: Vec<usize> = (1..=rest).filter(|d| rest.is_multiple_of(*d)).collect();
        let size = divisors[choice % divisors.len()];
        shape.push(size);
        rest /= size;
    }
    shape.push(rest);
    shape
}

fn permutation(count: usize, choices: &[usize]) -> Vec<usize> {
    let mut left: Vec<usize> = (0..count).collect();
    (0..count).map(|i| left.remove(choices[i % choices.len()] % left.len())).collect()
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let choices = prop::collection::vec(0..1000_usize, 5);
    let step = (any::<u8>(), 0..100_usize, choices);
    prop::collection::vec(step.prop_map(|(kind, tensor, choices)| Step { kind, tensor, choices }), 1..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn slicing_commutes_with_any_chain_of_operators(
        shape in prop::collection::vec(1..7_usize, 1..4),
        steps in steps(9),
        choices in prop::collection::vec(any::<bool>(), 17..60),
    ) {
        let mut net = Net::new();
        net.source(&shape);
        steps.iter().for_each(|step| net.step(step));
        net.check(&choices);
    }

    /// Without transposes and cuts every product lines up or freezes; the largest factors stay free.
    #[test]
    fn slicing_commutes_with_one_reshape(
        shape in prop::collection::vec(1..9_usize, 1..5),
        regroup in prop::collection::vec(0..1000_usize, 3),
        choices in prop::collection::vec(any::<bool>(), 17..60),
    ) {
        let mut net = Net::new();
        let data = net.source(&shape);
        let result = regrouped(shape.iter().product(), &regroup);
        net.node(Op::Reshape, &[data], &result);
        net.check(&choices);
    }
}

/// The properties above are not vacuous: in the usual chains something goes.
#[test]
fn the_usual_reshapes_leave_something_to_remove() {
    let removed = |build: fn(&mut Net)| {
        let mut net = Net::new();
        build(&mut net);
        net.check(&[true, false])
    };
    // Flattened channels; heads split off and merged again; a concatenation cut apart; a shuffle of channels.
    assert!(
        removed(|net| {
            let x = net.source(&[2, 6, 3]);
            net.node(Op::Reshape, &[x], &[2, 18]);
        }) > 0
    );
    assert!(
        removed(|net| {
            let x = net.source(&[5, 12]);
            let heads = net.node(Op::Reshape, &[x], &[5, 3, 4]);
            let moved = net.node(Op::Transpose(vec![1, 0, 2]), &[heads], &[3, 5, 4]);
            let back = net.node(Op::Transpose(vec![1, 0, 2]), &[moved], &[5, 3, 4]);
            net.node(Op::Reshape, &[back], &[5, 12]);
        }) > 0
    );
    assert!(
        removed(|net| {
            let (a, b) = (net.source(&[4]), net.source(&[6]));
            let joint = net.node(Op::Concat(0), &[a, b], &[10]);
            net.node(Op::Slice { axis: 0, from: 2, to: 7 }, &[joint], &[5]);
        }) > 0
    );
    assert!(
        removed(|net| {
            let x = net.source(&[8]);
            let pairs = net.node(Op::Reshape, &[x], &[2, 4]);
            let swapped = net.node(Op::Transpose(vec![1, 0]), &[pairs], &[4, 2]);
            let shuffled = net.node(Op::Reshape, &[swapped], &[8]);
            net.node(Op::Add, &[x, shuffled], &[8]);
        }) > 0
    );
}
