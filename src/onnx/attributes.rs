//! Attributes of a node, read and written by type.
//!
//! ```
//! use paredown::internals::onnx::attributes::{self, Attributes};
//! use paredown::internals::onnx::proto::NodeProto;
//!
//! let mut conv = NodeProto { op_type: Some("Conv".into()), ..NodeProto::default() };
//! attributes::set_int(&mut conv, "group", 32);
//! let read = Attributes::of(&conv);
//! assert_eq!(read.int("group")?, Some(32));
//! assert_eq!(read.ints("strides")?, None);
//! # Ok::<(), paredown::Error>(())
//! ```
//!
//! The reader remembers which attributes were asked for, so that a rule can refuse a node with an attribute
//! that nobody understood ([`Attributes::unread`]) instead of ignoring it.

use std::cell::Cell;

use bytes::Bytes;

use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use crate::{Error, Result};

/// An axis or an index among `count`, a negative one counted from the end; `None` if it is out of range.
///
/// ```
/// use paredown::internals::onnx::attributes::position;
///
/// assert_eq!([position(1, 3), position(-1, 3), position(3, 3), position(-4, 3)], [Some(1), Some(2), None, None]);
/// ```
pub fn position(number: i64, count: usize) -> Option<usize> {
    let count = i64::try_from(count).ok()?;
    let at = if number < 0 { number + count } else { number };
    usize::try_from(at).ok().filter(|_| at < count)
}

/// Reader of the attributes of one node. `Ok(None)` means absent; an attribute of another type than the one asked for
/// is an error that names the node.
#[derive(Debug)]
pub struct Attributes<'a> {
    node: &'a NodeProto,
    read: Vec<Cell<bool>>,
}

impl<'a> Attributes<'a> {
    /// The attributes of `node`.
    pub fn of(node: &'a NodeProto) -> Self {
        Self { node, read: vec![Cell::new(false); node.attribute.len()] }
    }

    /// An integer.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) if the attribute has another type.
    pub fn int(&self, name: &str) -> Result<Option<i64>> {
        Ok(self.typed(name, AttributeType::Int)?.map(AttributeProto::i))
    }

    /// An integer with a default.
    ///
    /// # Errors
    /// As [`Attributes::int`].
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// A list of integers.
    ///
    /// # Errors
    /// As [`Attributes::int`].
    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>> {
        Ok(self.typed(name, AttributeType::Ints)?.map(|attribute| attribute.ints.as_slice()))
    }

    /// A number.
    ///
    /// # Errors
    /// As [`Attributes::int`].
    pub fn float(&self, name: &str) -> Result<Option<f32>> {
        Ok(self.typed(name, AttributeType::Float)?.map(AttributeProto::f))
    }

    /// A number with a default.
    ///
    /// # Errors
    /// As [`Attributes::int`].
    pub fn float_or(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// As [`Attributes::int`].
    pub fn floats(&self, name: &str) -> Result<Option<&'a [f32]>> {
        Ok(self.typed(name, AttributeType::Floats)?.map(|attribute| attribute.floats.as_slice()))
    }

    /// A text.
    ///
    /// # Errors
    /// As [`Attributes::int`], and if the bytes are not UTF-8.
    pub fn string(&self, name: &str) -> Result<Option<&'a str>> {
        let Some(attribute) = self.typed(name, AttributeType::String)? else { return Ok(None) };
        self.text(name, attribute.s.as_ref().unwrap_or(&EMPTY)).map(Some)
    }

    /// A list of texts.
    ///
    /// # Errors
    /// As [`Attributes::string`].
    pub fn strings(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(attribute) = self.typed(name, AttributeType::Strings)? else { return Ok(None) };
        attribute.strings.iter().map(|bytes| self.text(name, bytes)).collect::<Result<_>>().map(Some)
    }

    /// A tensor.
    ///
    /// # Errors
    /// As [`Attributes::int`], and if the attribute holds none.
    pub fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>> {
        let Some(attribute) = self.typed(name, AttributeType::Tensor)? else { return Ok(None) };
        attribute.t.as_ref().map(Some).ok_or_else(|| self.error(name, "holds no tensor"))
    }

    /// A subgraph.
    ///
    /// # Errors
    /// As [`Attributes::int`], and if the attribute holds none.
    pub fn graph(&self, name: &str) -> Result<Option<&'a GraphProto>> {
        let Some(attribute) = self.typed(name, AttributeType::Graph)? else { return Ok(None) };
        attribute.g.as_ref().map(Some).ok_or_else(|| self.error(name, "holds no graph"))
    }

    /// What `read` gives, which must be there: `attributes.require("axis", Attributes::int)`.
    ///
    /// # Errors
    /// As `read`, and if the attribute is absent.
    pub fn require<T>(&self, name: &str, read: impl FnOnce(&Self, &str) -> Result<Option<T>>) -> Result<T> {
        read(self, name)?.ok_or_else(|| self.error(name, "is missing"))
    }

    /// The attribute of this name if it is of this type, or of one that the file does not tell. One of another type stays
    /// [`unread`](Self::unread).
    pub(crate) fn of_type(&self, name: &str, wanted: AttributeType) -> Option<&'a AttributeProto> {
        let mut pairs = self.node.attribute.iter().zip(&self.read);
        let (attribute, read) = pairs.find(|(attribute, _)| attribute.name() == name)?;
        let fits = attribute.ref_attr_name().is_empty() && kind(attribute).is_none_or(|found| found == wanted);
        read.set(read.get() || fits);
        fits.then_some(attribute)
    }

    /// Names of the attributes that were not asked for so far.
    pub fn unread(&self) -> Vec<&'a str> {
        let pairs = self.node.attribute.iter().zip(&self.read);
        pairs.filter(|(_, read)| !read.get()).map(|(attribute, _)| attribute.name()).collect()
    }

    fn typed(&self, name: &str, wanted: AttributeType) -> Result<Option<&'a AttributeProto>> {
        let mut pairs = self.node.attribute.iter().zip(&self.read);
        let Some((attribute, read)) = pairs.find(|(attribute, _)| attribute.name() == name) else { return Ok(None) };
        read.set(true);
        if !attribute.ref_attr_name().is_empty() {
            let message = format!("refers to '{}' of the enclosing function", attribute.ref_attr_name());
            return Err(self.error(name, &message));
        }
        match kind(attribute) {
            Some(found) if found == wanted => Ok(Some(attribute)),
            found => {
                let found = found.map_or("of unknown type", |found| found.as_str_name());
                Err(self.error(name, &format!("is {found}, expected {}", wanted.as_str_name())))
            }
        }
    }

    fn text(&self, name: &str, bytes: &'a Bytes) -> Result<&'a str> {
        std::str::from_utf8(bytes).map_err(|_| self.error(name, "is not UTF-8"))
    }

    fn error(&self, name: &str, message: &str) -> Error {
        let named = self.node.name();
        let node = if named.is_empty() { self.node.op_type() } else { named };
        Error::input(format!("attribute '{name}' {message}")).at_node(node)
    }
}

static EMPTY: Bytes = Bytes::new();

/// The type of an attribute. Files before IR version 2 do not state it; it then follows from the field that is filled.
fn kind(attribute: &AttributeProto) -> Option<AttributeType> {
    if let Some(code) = attribute.r#type
        && code != AttributeType::Undefined as i32
    {
        return AttributeType::try_from(code).ok();
    }
    let filled = [
        (attribute.f.is_some(), AttributeType::Float),
        (attribute.i.is_some(), AttributeType::Int),
        (attribute.s.is_some(), AttributeType::String),
        (attribute.t.is_some(), AttributeType::Tensor),
        (attribute.g.is_some(), AttributeType::Graph),
        (!attribute.floats.is_empty(), AttributeType::Floats),
        (!attribute.ints.is_empty(), AttributeType::Ints),
        (!attribute.strings.is_empty(), AttributeType::Strings),
    ];
    filled.into_iter().find(|(filled, _)| *filled).map(|(_, kind)| kind)
}

/// Sets an integer attribute, in place of one with the same name.
pub fn set_int(node: &mut NodeProto, name: &str, value: i64) {
    set(node, name, AttributeType::Int, AttributeProto { i: Some(value), ..AttributeProto::default() });
}

/// Sets an attribute to a list of integers.
pub fn set_ints(node: &mut NodeProto, name: &str, values: &[i64]) {
    set(node, name, AttributeType::Ints, AttributeProto { ints: values.to_vec(), ..AttributeProto::default() });
}

/// Sets an attribute to a number.
pub fn set_float(node: &mut NodeProto, name: &str, value: f32) {
    set(node, name, AttributeType::Float, AttributeProto { f: Some(value), ..AttributeProto::default() });
}

/// Sets an attribute to a list of numbers.
pub fn set_floats(node: &mut NodeProto, name: &str, values: &[f32]) {
    set(node, name, AttributeType::Floats, AttributeProto { floats: values.to_vec(), ..AttributeProto::default() });
}

/// Sets an attribute to a text.
pub fn set_string(node: &mut NodeProto, name: &str, value: &str) {
    let bytes = Bytes::copy_from_slice(value.as_bytes());
    set(node, name, AttributeType::String, AttributeProto { s: Some(bytes), ..AttributeProto::default() });
}

/// Sets an attribute to a tensor.
pub fn set_tensor(node: &mut NodeProto, name: &str, value: TensorProto) {
    set(node, name, AttributeType::Tensor, AttributeProto { t: Some(value), ..AttributeProto::default() });
}

/// Sets an attribute to a subgraph.
pub fn set_graph(node: &mut NodeProto, name: &str, value: GraphProto) {
    set(node, name, AttributeType::Graph, AttributeProto { g: Some(value), ..AttributeProto::default() });
}

/// Removes an attribute; whether there was one.
pub fn remove(node: &mut NodeProto, name: &str) -> bool {
    let before = node.attribute.len();
    node.attribute.retain(|attribute| attribute.name() != name);
    node.attribute.len() < before
}

/// Puts `value` in the place of the attribute with that name, or last.
fn set(node: &mut NodeProto, name: &str, kind: AttributeType, mut value: AttributeProto) {
    value.name = Some(name.to_owned());
    value.r#type = Some(kind.into());
    match node.attribute.iter_mut().find(|attribute| attribute.name() == name) {
        Some(existing) => {
            value.doc_string = existing.doc_string.take();
            *existing = value;
        }
        None => node.attribute.push(value),
    }
}

/// The subgraphs of a node (bodies of `If`, `Loop`, `Scan` …) with the names of their attributes.
pub fn subgraphs(node: &NodeProto) -> impl Iterator<Item = (&str, &GraphProto)> {
    node.attribute.iter().flat_map(|attribute| {
        let graphs = attribute.g.iter().chain(&attribute.graphs);
        graphs.map(|graph| (attribute.name(), graph))
    })
}

/// The subgraphs of a node, to be changed.
pub fn subgraphs_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs))
}
