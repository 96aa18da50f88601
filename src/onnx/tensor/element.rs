//! Element types of tensors: size, name, number class.

use std::fmt;

use crate::onnx::proto::tensor_proto::DataType;
use crate::{Error, Result};

/// The type of a tensor's elements: every `TensorProto.DataType` except `UNDEFINED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the names are the specification's own
pub enum ElementType {
    Float,
    Uint8,
    Int8,
    Uint16,
    Int16,
    Int32,
    Int64,
    String,
    Bool,
    Float16,
    Double,
    Uint32,
    Uint64,
    Complex64,
    Complex128,
    Bfloat16,
    Float8E4M3Fn,
    Float8E4M3Fnuz,
    Float8E5M2,
    Float8E5M2Fnuz,
    Uint4,
    Int4,
    Float4E2M1,
    Float8E8M0,
    Uint2,
    Int2,
    Float6E2M3,
    Float6E3M2,
}

/// The typed field of a `TensorProto` that holds the elements when `raw_data` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TypedField {
    Float,
    Double,
    Int32,
    Int64,
    Uint64,
    String,
}

/// Element type, code in the file, bits of one element, name, typed field.
type Row = (ElementType, DataType, usize, &'static str, TypedField);

const ROWS: &[Row] = &[
    (ElementType::Float, DataType::Float, 32, "float32", TypedField::Float),
    (ElementType::Uint8, DataType::Uint8, 8, "uint8", TypedField::Int32),
    (ElementType::Int8, DataType::Int8, 8, "int8", TypedField::Int32),
    (ElementType::Uint16, DataType::Uint16, 16, "uint16", TypedField::Int32),
    (ElementType::Int16, DataType::Int16, 16, "int16", TypedField::Int32),
    (ElementType::Int32, DataType::Int32, 32, "int32", TypedField::Int32),
    (ElementType::Int64, DataType::Int64, 64, "int64", TypedField::Int64),
    (ElementType::String, DataType::String, 0, "string", TypedField::String),
    (ElementType::Bool, DataType::Bool, 8, "bool", TypedField::Int32),
    (ElementType::Float16, DataType::Float16, 16, "float16", TypedField::Int32),
    (ElementType::Double, DataType::Double, 64, "float64", TypedField::Double),
    (ElementType::Uint32, DataType::Uint32, 32, "uint32", TypedField::Uint64),
    (ElementType::Uint64, DataType::Uint64, 64, "uint64", TypedField::Uint64),
    (ElementType::Complex64, DataType::Complex64, 64, "complex64", TypedField::Float),
    (ElementType::Complex128, DataType::Complex128, 128, "complex128", TypedField::Double),
    (ElementType::Bfloat16, DataType::Bfloat16, 16, "bfloat16", TypedField::Int32),
    (ElementType::Float8E4M3Fn, DataType::Float8e4m3fn, 8, "float8e4m3fn", TypedField::Int32),
    (ElementType::Float8E4M3Fnuz, DataType::Float8e4m3fnuz, 8, "float8e4m3fnuz", TypedField::Int32),
    (ElementType::Float8E5M2, DataType::Float8e5m2, 8, "float8e5m2", TypedField::Int32),
    (ElementType::Float8E5M2Fnuz, DataType::Float8e5m2fnuz, 8, "float8e5m2fnuz", TypedField::Int32),
    (ElementType::Uint4, DataType::Uint4, 4, "uint4", TypedField::Int32),
    (ElementType::Int4, DataType::Int4, 4, "int4", TypedField::Int32),
    (ElementType::Float4E2M1, DataType::Float4e2m1, 4, "float4e2m1", TypedField::Int32),
    (ElementType::Float8E8M0, DataType::Float8e8m0, 8, "float8e8m0", TypedField::Int32),
    (ElementType::Uint2, DataType::Uint2, 2, "uint2", TypedField::Int32),
    (ElementType::Int2, DataType::Int2, 2, "int2", TypedField::Int32),
    (ElementType::Float6E2M3, DataType::Float6e2m3, 6, "float6e2m3", TypedField::Int32),
    (ElementType::Float6E3M2, DataType::Float6e3m2, 6, "float6e3m2", TypedField::Int32),
];

impl ElementType {
    /// The element type with code `data_type` in the file.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) if the code is `UNDEFINED` or newer than ONNX 1.23.
    pub fn from_code(data_type: i32) -> Result<Self> {
        let row = ROWS.iter().find(|row| row.1 as i32 == data_type);
        row.map(|row| row.0).ok_or_else(|| Error::input(format!("unknown element type {data_type}")))
    }

    /// The value of `TensorProto.data_type` and of `TypeProto.Tensor.elem_type`.
    pub fn code(self) -> i32 {
        self.row().1 as i32
    }

    /// Bits of one element; 0 for strings, which have no fixed size.
    pub fn bits(self) -> usize {
        self.row().2
    }

    /// Bytes of one element, or `None` where elements are smaller than a byte or have no fixed size.
    pub fn bytes(self) -> Option<usize> {
        let bits = self.bits();
        (bits >= 8).then_some(bits / 8)
    }

    /// Whether elements are numbers that this program reads: not strings, complex ones, those smaller than a byte, or floats
    /// of eight bits.
    pub fn is_read(self) -> bool {
        !matches!(self, Self::String | Self::Complex64 | Self::Complex128)
            && self.bits() >= 8
            && !(self.is_float() && self.bits() == 8)
    }

    /// The usual lower-case name, such as `float32`.
    pub fn name(self) -> &'static str {
        self.row().3
    }

    /// Whether elements are real floating-point numbers, of any width.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Self::Float
                | Self::Double
                | Self::Float16
                | Self::Bfloat16
                | Self::Float8E4M3Fn
                | Self::Float8E4M3Fnuz
                | Self::Float8E5M2
                | Self::Float8E5M2Fnuz
                | Self::Float8E8M0
                | Self::Float6E2M3
                | Self::Float6E3M2
                | Self::Float4E2M1
        )
    }

    pub(super) fn typed_field(self) -> TypedField {
        self.row().4
    }

    fn row(self) -> &'static Row {
        // `rows_are_in_declaration_order` proves that the row exists and is the right one.
        &ROWS[self as usize]
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_declaration_order() {
        for (position, row) in ROWS.iter().enumerate() {
            assert_eq!(row.0 as usize, position, "{}", row.3);
        }
        assert_eq!(ROWS.len(), ElementType::Float6E3M2 as usize + 1);
    }

    #[test]
    fn every_code_of_the_schema_has_one_element_type() {
        for code in 1..=28 {
            let declared = DataType::try_from(code).unwrap();
            let element = ElementType::from_code(code).unwrap();
            assert_eq!(element.code(), code, "{}", declared.as_str_name());
        }
        assert!(ElementType::from_code(0).is_err());
        assert!(ElementType::from_code(29).is_err(), "a new element type needs a row");
        assert!(DataType::try_from(29).is_err());
    }

    #[test]
    fn floats_are_told_from_integers_and_complex_numbers() {
        assert!(
            ElementType::Bfloat16.is_float() && ElementType::Double.is_float() && ElementType::Float4E2M1.is_float()
        );
        assert!(
            !ElementType::Complex64.is_float() && !ElementType::Int64.is_float() && !ElementType::String.is_float()
        );
    }
}
