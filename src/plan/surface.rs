//! The time of an operator as a function of the sizes that may change, fitted to measured times.
//!
//! An operator with sizes x, y (relative to the whole ones) takes about `c₀ + c₁x + c₂y + c₃xy + c₄x² + c₅y²`: what does not
//! depend on sizes, what is read or written, and what is multiplied, where inputs and outputs may have one size. All
//! coefficients are at least zero, so that no size is predicted to be faster than a smaller one. They minimize the squares of
//! the relative errors (non-negative least squares by coordinates; Franc, Hlaváč & Navara 2005).

/// Up to this many sizes, every product of some of them is a term; beyond, each of them and the product of all.
const MOST_PRODUCTS: usize = 4;

/// Up to this many sizes, the square of each is a term.
const MOST_SQUARES: usize = 3;

/// Rounds over all coefficients.
const ROUNDS: usize = 3000;

/// Coefficients are final once none changes by more than this share of the largest.
const SETTLED: f64 = 1e-9;

/// A sum of products of sizes, with coefficients in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Surface {
    /// The whole sizes.
    whole: Vec<f64>,
    /// For each term, the power of each size, and the coefficient.
    terms: Vec<(Vec<i32>, f64)>,
}

impl Surface {
    /// Fits the times in milliseconds of some sizes. `whole` holds the sizes of the whole operator; every entry of `measured`
    /// has as many sizes. Without any entry the time is 0.
    pub(crate) fn fit(whole: &[u64], measured: &[(Vec<u64>, f64)]) -> Self {
        let whole: Vec<f64> = whole.iter().map(|&size| size.max(1) as f64).collect();
        let powers = powers(whole.len());
        let rows: Vec<Vec<f64>> = measured
            .iter()
            .map(|(sizes, ms)| {
                let sizes = relative(&whole, sizes);
                powers.iter().map(|powers| product(powers, &sizes) / ms.max(1e-9)).collect()
            })
            .collect();
        let coefficients = non_negative(&rows, powers.len());
        let terms = powers.into_iter().zip(coefficients).filter(|(_, coefficient)| *coefficient > 0.0).collect();
        Self { whole, terms }
    }

    /// The time at these sizes, in milliseconds.
    pub(crate) fn at(&self, sizes: &[u64]) -> f64 {
        let sizes = relative(&self.whole, sizes);
        self.terms.iter().map(|(powers, coefficient)| coefficient * product(powers, &sizes)).sum()
    }

    /// The same function, with all times multiplied by `factor`.
    pub(crate) fn scaled(mut self, factor: f64) -> Self {
        self.terms.iter_mut().for_each(|(_, coefficient)| *coefficient *= factor);
        self
    }
}

fn relative(whole: &[f64], sizes: &[u64]) -> Vec<f64> {
    whole.iter().zip(sizes).map(|(&whole, &size)| size as f64 / whole).collect()
}

fn product(powers: &[i32], sizes: &[f64]) -> f64 {
    powers.iter().zip(sizes).map(|(&power, size)| size.powi(power)).product()
}

/// The powers of all terms. One size may be that of inputs and outputs alike, so that its square counts: the hidden units of an LSTM
/// meet those of the step before.
fn powers(sizes: usize) -> Vec<Vec<i32>> {
    let power = |one: usize, power: i32| (0..sizes).map(move |size| if size == one { power } else { 0 }).collect();
    if sizes > MOST_PRODUCTS {
        let single = (0..sizes).map(|one| power(one, 1));
        return [vec![0; sizes]].into_iter().chain(single).chain([vec![1; sizes]]).collect();
    }
    let product = |set: u32| (0..sizes).map(|size| i32::from(set >> size & 1 == 1)).collect();
    let squares = if sizes <= MOST_SQUARES { 0..sizes } else { 0..0 };
    (0..1_u32 << sizes).map(product).chain(squares.map(|one| power(one, 2))).collect()
}

/// The coefficients, none below zero, for which every row's sum is as near to one as possible.
fn non_negative(rows: &[Vec<f64>], count: usize) -> Vec<f64> {
    let gram = |a: usize, b: usize| -> f64 { rows.iter().map(|row| row[a] * row[b]).sum() };
    let products: Vec<Vec<f64>> = (0..count).map(|a| (0..count).map(|b| gram(a, b)).collect()).collect();
    let target: Vec<f64> = (0..count).map(|a| rows.iter().map(|row| row[a]).sum()).collect();
    let mut found = vec![0.0; count];
    for _ in 0..ROUNDS {
        let mut most: f64 = 0.0;
        for at in 0..count {
            if products[at][at] <= 0.0 {
                continue;
            }
            let fitted: f64 = products[at].iter().zip(&found).map(|(a, b)| a * b).sum();
            let next: f64 = (found[at] + (target[at] - fitted) / products[at][at]).max(0.0);
            most = most.max((next - found[at]).abs());
            found[at] = next;
        }
        if most <= SETTLED * found.iter().copied().fold(0.0, f64::max) {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 0.01, "{found} {expected}");
    }

    /// Times at all pairs of these sizes.
    fn all_pairs(sizes: [u64; 4], ms: impl Fn(u64, u64) -> f64) -> Vec<(Vec<u64>, f64)> {
        sizes.iter().flat_map(|&x| sizes.map(|y| (vec![x, y], ms(x, y)))).collect()
    }

    #[test]
    fn a_sum_of_products_is_found_again() {
        let ms = |x: u64, y: u64| 0.01 + 2e-4 * x as f64 + 1e-5 * (x * y) as f64;
        let surface = Surface::fit(&[64, 64], &all_pairs([8, 24, 40, 64], ms));
        for (x, y) in [(64, 64), (16, 56), (48, 8)] {
            near(surface.at(&[x, y]), ms(x, y));
        }
        near(surface.scaled(2.0).at(&[16, 56]), 2.0 * ms(16, 56));
    }

    #[test]
    fn the_square_of_a_single_size_counts() {
        let measured: Vec<(Vec<u64>, f64)> = [4, 8, 16, 32].map(|x: u64| (vec![x], (x * x) as f64 * 1e-3)).to_vec();
        near(Surface::fit(&[32], &measured).at(&[24]), 0.576);
    }

    /// An LSTM: x hidden units, which the steps pass on to each other, read y values.
    #[test]
    fn the_square_of_one_of_two_sizes_counts() {
        let ms = |x: u64, y: u64| 0.01 + 4e-5 * (x * x) as f64 + 1e-5 * (x * y) as f64;
        let surface = Surface::fit(&[256, 256], &all_pairs([32, 96, 160, 256], ms));
        for (x, y) in [(256, 176), (176, 24), (24, 256)] {
            near(surface.at(&[x, y]), ms(x, y));
        }
    }

    /// Noise in the measurements: a smaller size that took longer.
    #[test]
    fn no_size_is_faster_than_a_smaller_one() {
        let measured = [(vec![8], 1.3), (vec![16], 1.0), (vec![32], 1.2)];
        let surface = Surface::fit(&[32], &measured);
        assert!((1..32).all(|size| surface.at(&[size]) <= surface.at(&[size + 1])));
    }

    #[test]
    fn many_sizes_need_no_more_points_than_there_are_terms() {
        let measured: Vec<(Vec<u64>, f64)> = (1..=6).map(|x: u64| (vec![x; 5], x as f64)).collect();
        near(Surface::fit(&[6; 5], &measured).at(&[3; 5]), 3.0);
        assert_eq!(Surface::fit(&[6], &[]).at(&[3]), 0.0);
        assert_eq!([1, 2, 3, 4, 5].map(|sizes| powers(sizes).len()), [3, 6, 11, 16, 7]);
    }
}
