//! Sizes of axes. A dynamic axis has no one size, so every size is held under several *sample bindings*
//! of the model's dynamic dimensions: equal under all of them means static.

use std::fmt;

/// How many sample bindings of the dynamic dimensions are looked at.
pub const BINDINGS: usize = 3;

/// The size of an axis (in indices) under each sample binding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent([u64; BINDINGS]);

impl Extent {
    /// The size of a broadcast axis and of an empty product.
    pub const ONE: Self = Self([1; BINDINGS]);

    /// The same size under every binding.
    pub fn fixed(size: u64) -> Self {
        Self([size; BINDINGS])
    }

    /// One size for each binding.
    pub fn sampled(sizes: [u64; BINDINGS]) -> Self {
        Self(sizes)
    }

    /// The size, if it is the same under every binding.
    pub fn as_fixed(self) -> Option<usize> {
        let first = self.0[0];
        if self.0.iter().all(|&size| size == first) { usize::try_from(first).ok() } else { None }
    }

    /// The size under sample binding `binding`.
    pub fn under(self, binding: usize) -> u64 {
        self.0[binding]
    }

    /// Whether the size is one under every binding.
    pub fn is_one(self) -> bool {
        self == Self::ONE
    }

    /// Whether the size is zero under some binding.
    pub fn is_empty(self) -> bool {
        self.0.contains(&0)
    }

    /// Product of two sizes, `None` on overflow.
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        self.zip(other, u64::checked_mul)
    }

    /// Sum of two sizes, `None` on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.zip(other, u64::checked_add)
    }

    /// Difference of two sizes, `None` if any would be negative.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.zip(other, u64::checked_sub)
    }

    /// Exact quotient under every binding, `None` if there is a remainder.
    pub fn div_exact(self, other: Self) -> Option<Self> {
        self.zip(other, |a, b| if b != 0 && a % b == 0 { Some(a / b) } else { None })
    }

    /// Product of many sizes, `None` on overflow.
    pub fn product(sizes: impl IntoIterator<Item = Self>) -> Option<Self> {
        sizes.into_iter().try_fold(Self::ONE, Self::checked_mul)
    }

    /// The size, or those of all bindings where they differ: `32/9/65 (dynamic)`.
    pub fn spelled(self) -> String {
        match self.as_fixed() {
            Some(size) => size.to_string(),
            None => format!("{} (dynamic)", self.0.map(|size| size.to_string()).join("/")),
        }
    }

    /// Whether it is below `other` under every binding.
    pub fn is_below(self, other: Self) -> bool {
        self.0.iter().zip(other.0).all(|(&a, b)| a < b)
    }

    fn zip(self, other: Self, f: impl Fn(u64, u64) -> Option<u64>) -> Option<Self> {
        let mut out = [0; BINDINGS];
        for (slot, (&a, &b)) in out.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *slot = f(a, b)?;
        }
        Some(Self(out))
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_fixed() {
            Some(size) => write!(f, "{size}"),
            None => f.write_str("?"),
        }
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_fixed() {
            Some(size) => write!(f, "{size}"),
            None => write!(f, "{:?}", self.0),
        }
    }
}
