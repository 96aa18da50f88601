//! From what is on disk to what the graph declares, refusing what would change its meaning.

use half::f16;

use super::npy::{NpyArray, NpyType};
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::{Tensor, elements_as};
use crate::{Error, Result};

/// Elements as they are on disk, widened without loss.
pub(super) enum Elements {
    Floats(Vec<f64>),
    Singles(Vec<f32>),
    Integers(Vec<i64>),
    Bools(Vec<bool>),
}

/// Rows `start..end` of `array` as elements.
pub(super) fn read_elements(array: &NpyArray, start: usize, end: usize) -> Result<Elements> {
    let bytes = array.read_rows(start, end)?;
    match array.element {
        NpyType::Bool => Ok(Elements::Bools(bytes.iter().map(|&byte| byte != 0).collect())),
        NpyType::Float { bytes: 4 } => {
            let single = |chunk: &[u8; 4]| f32::from_le_bytes(*chunk);
            Ok(Elements::Singles(bytes.as_chunks::<4>().0.iter().map(single).collect()))
        }
        NpyType::Float { bytes: width } => Ok(Elements::Floats(bytes.chunks_exact(width).map(float).collect())),
        NpyType::Signed { bytes: width } => Ok(Elements::Integers(bytes.chunks_exact(width).map(signed).collect())),
        NpyType::Unsigned { bytes: width } => {
            let wide = bytes.chunks_exact(width).map(|chunk| i64::try_from(unsigned(chunk)));
            let wide = wide.collect::<Result<Vec<_>, _>>();
            wide.map(Elements::Integers)
                .map_err(|_| Error::input(format!("array '{}' has a value beyond 2⁶³", array.name)))
        }
    }
}

fn unsigned(chunk: &[u8]) -> u64 {
    chunk.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn signed(chunk: &[u8]) -> i64 {
    let unused = 64_usize.saturating_sub(8 * chunk.len());
    (unsigned(chunk) << unused).cast_signed() >> unused
}

fn float(chunk: &[u8]) -> f64 {
    match *chunk {
        [a, b] => f16::from_le_bytes([a, b]).to_f64(),
        _ => f64::from_bits(unsigned(chunk)),
    }
}

/// Whether elements of type `from` may feed an input of type `to` at all.
pub(super) fn is_convertible(from: NpyType, to: DataType) -> bool {
    let is_integer = matches!(from, NpyType::Signed { .. } | NpyType::Unsigned { .. });
    match to {
        DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16 => {
            matches!(from, NpyType::Float { .. })
        }
        DataType::Bool => from == NpyType::Bool,
        DataType::Int8
        | DataType::Uint8
        | DataType::Int16
        | DataType::Uint16
        | DataType::Int32
        | DataType::Uint32
        | DataType::Int64
        | DataType::Uint64 => is_integer,
        _ => false,
    }
}

/// `elements` as a tensor of type `to`; the first of them belongs to sample `first`.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) when a value is NaN or infinite, or does not fit `to`.
pub(super) fn convert(name: &str, elements: &Elements, to: DataType, shape: &[usize], first: usize) -> Result<Tensor> {
    let per_sample = shape.iter().skip(1).product::<usize>().max(1);
    let at = |index: usize| format!("sample {} of array '{name}'", first + index / per_sample);
    match elements {
        Elements::Bools(flags) => Tensor::new(shape, flags),
        Elements::Singles(values) if to == DataType::Float && values.iter().all(|value| value.is_finite()) => {
            Tensor::new(shape, values)
        }
        Elements::Singles(values) => {
            convert(name, &Elements::Floats(values.iter().copied().map(f64::from).collect()), to, shape, first)
        }
        Elements::Floats(values) => {
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                return Err(Error::input(format!("{} contains {}", at(index), values[index])));
            }
            let largest = match to {
                DataType::Double => f64::MAX,
                DataType::Float16 => f16::MAX.to_f64(),
                _ => f64::from(f32::MAX),
            };
            if let Some(index) = values.iter().position(|value| value.abs() > largest) {
                return Err(Error::input(format!(
                    "{} contains {:e}, which does not fit {to:?}",
                    at(index),
                    values[index]
                )));
            }
            elements_as(to, &Tensor::new(shape, values)?)
        }
        Elements::Integers(values) => {
            let (low, high) = range_of(to);
            if let Some(index) = values.iter().position(|value| !(low..=high).contains(value)) {
                return Err(Error::input(format!(
                    "{} contains {}, which does not fit {to:?}",
                    at(index),
                    values[index]
                )));
            }
            elements_as(to, &Tensor::new(shape, values)?)
        }
    }
}

/// The integers of type `to`, as far as an i64 can say.
fn range_of(to: DataType) -> (i64, i64) {
    match to {
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Uint8 => (0, u8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Uint16 => (0, u16::MAX.into()),
        DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::Uint32 => (0, u32::MAX.into()),
        DataType::Uint64 => (0, i64::MAX),
        _ => (i64::MIN, i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_any_width_keep_their_sign() {
        assert_eq!(signed(&[0xfe]), -2);
        assert_eq!(signed(&[0xfe, 0xff, 0xff, 0xff]), -2);
        assert_eq!(signed(&i64::MIN.to_le_bytes()), i64::MIN);
        assert_eq!(unsigned(&[1, 2]), 513);
        assert_eq!(float(&f16::from_f32(-0.5).to_le_bytes()), -0.5);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_sample() {
        let wide = Elements::Floats(vec![0.0, 1.0, 1e300, 0.0]);
        let error = convert("x", &wide, DataType::Float, &[2, 2], 10).unwrap_err();
        assert!(error.to_string().contains("sample 11 of array 'x' contains 1e300"), "{error}");
        assert!(convert("x", &wide, DataType::Double, &[2, 2], 0).is_ok());
        let nan = convert("x", &Elements::Floats(vec![f64::NAN]), DataType::Double, &[1], 3).unwrap_err();
        assert!(nan.to_string().contains("sample 3 of array 'x' contains NaN"), "{nan}");
        let large = Elements::Integers(vec![1 << 40]);
        assert!(convert("x", &large, DataType::Int32, &[1], 0).is_err());
        assert_eq!(convert("x", &large, DataType::Int64, &[1], 0).unwrap().as_slice::<i64>().unwrap(), [1 << 40]);
    }

    #[test]
    fn kinds_of_numbers_are_not_mixed() {
        let (float, int) = (NpyType::Float { bytes: 8 }, NpyType::Signed { bytes: 4 });
        assert!(is_convertible(float, DataType::Float) && is_convertible(int, DataType::Int64));
        assert!(!is_convertible(float, DataType::Int64) && !is_convertible(int, DataType::Float));
        assert!(!is_convertible(int, DataType::Bool) && !is_convertible(NpyType::Bool, DataType::Float));
    }
}
