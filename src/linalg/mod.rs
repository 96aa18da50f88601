//! Dense linear algebra on `ndarray` arrays, accessed through one small trait.
//!
//! [`Faer`] is embedded, pure Rust; `Lapack` (feature `lapack`) calls the system's OpenBLAS and
//! takes its place. Both are sequential inside a call, so a result never depends on how many threads run:
//! callers run in parallel over layers instead.
//!
//! Conventions: singular values and eigenvalues are sorted from large to small; an array that is
//! not finite is refused with the name that the caller gives it; shapes that do not fit together
//! are a programming error and panic.
//!
//! ```
//! use ndarray::array;
//! use paredown::internals::linalg::{self, Backend};
//!
//! let svd = linalg::default_backend().svd_f64(array![[3.0, 0.0], [0.0, -4.0]].view(), "weight")?;
//! assert!((svd.sigma[0] - 4.0).abs() < 1e-12 && (svd.sigma[1] - 3.0).abs() < 1e-12);
//! # Ok::<(), paredown::Error>(())
//! ```

mod backend;
mod faer;
#[cfg(feature = "lapack")]
mod lapack;
pub mod ridge;
#[cfg(test)]
mod tests;

pub use backend::{Backend, Eigh, Qr, Svd};
pub(crate) use backend::{in_strips, mirror_lower};
pub use faer::Faer;
#[cfg(feature = "lapack")]
pub use lapack::Lapack;
pub(crate) use ridge::{Ridge, growing, strength};

/// The backend that the program computes with: the system's LAPACK with the feature `lapack`, else [`Faer`].
#[cfg(feature = "lapack")]
pub fn default_backend() -> &'static dyn Backend {
    &Lapack
}

/// The backend that the program computes with: the system's LAPACK with the feature `lapack`, else [`Faer`].
#[cfg(not(feature = "lapack"))]
pub fn default_backend() -> &'static dyn Backend {
    &Faer
}

/// Every backend that this build holds, the default first.
pub fn backends() -> Vec<&'static dyn Backend> {
    vec![
        #[cfg(feature = "lapack")]
        &Lapack,
        &Faer,
    ]
}
