//! A first look at an encoded model, before anything is allocated for it.
//!
//! [`survey`] walks the protobuf wire format with the schema in hand and skips what messages hold, so that
//! it costs time by the number of fields, not by the size of weights. It finds
//!
//! * fields that the schema does not know, which decoding drops without a word;
//! * how much memory the decoded messages will take: two bytes can stand for an empty message of hundreds.

use std::collections::BTreeMap;

use super::schema::{MESSAGES, MessageSchema};
use crate::{Error, Result};

/// Deepest nesting of messages that is accepted, as in `prost`.
const MAX_DEPTH: usize = 100;

// Wire types of the protobuf encoding, the low three bits of a field's key.
const VARINT: usize = 0;
const FIXED64: usize = 1;
const LENGTH_DELIMITED: usize = 2;
const START_GROUP: usize = 3;
const END_GROUP: usize = 4;
const FIXED32: usize = 5;

/// What the schema says of a field number.
enum Field {
    Unknown,
    Scalar,
    Message(&'static MessageSchema),
}

impl MessageSchema {
    fn field(&self, number: u32) -> Field {
        let at = self.fields.binary_search_by_key(&number, |field| field.0);
        match at.ok().and_then(|at| self.fields.get(at)) {
            None => Field::Unknown,
            Some((_, child)) => child.and_then(|child| MESSAGES.get(child)).map_or(Field::Scalar, Field::Message),
        }
    }
}

/// What an encoded model holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// How often each field that the schema does not know occurs: (message name, field number) → count.
    pub(super) unknown: BTreeMap<(&'static str, u32), usize>,
    /// Number of messages, the outermost included.
    pub(super) messages: usize,
    /// Memory that the decoded messages take, in bytes, without the texts, lists and weights that they own.
    pub(super) message_bytes: usize,
}

/// Walks the encoded message called `name` (without its package).
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) if the bytes are not protobuf, end too early, or nest messages too deep.
pub(super) fn survey(encoded: &[u8], name: &str) -> Result<Survey> {
    let schema = MESSAGES.iter().find(|message| message.name == name);
    let schema = schema.ok_or_else(|| Error::input(format!("the schema has no message {name}")))?;
    let mut survey = Survey::default();
    walk(encoded, schema, MAX_DEPTH, &mut survey)?;
    Ok(survey)
}

fn walk(mut rest: &[u8], schema: &MessageSchema, depth: usize, survey: &mut Survey) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
    survey.messages += 1;
    survey.message_bytes = survey.message_bytes.saturating_add(schema.bytes);
    while !rest.is_empty() {
        let (number, wire_type) = key(&mut rest, schema)?;
        let content = skip(&mut rest, (number, wire_type), schema, depth)?;
        match schema.field(number) {
            Field::Message(child) if wire_type == LENGTH_DELIMITED => walk(content, child, depth, survey)?,
            Field::Message(_) | Field::Scalar => {}
            Field::Unknown => *survey.unknown.entry((schema.name, number)).or_default() += 1,
        }
    }
    Ok(())
}

/// Reads the number and the wire type of the next field.
fn key(rest: &mut &[u8], schema: &MessageSchema) -> Result<(u32, usize)> {
    let key = varint(rest, schema)?;
    match u32::try_from(key >> 3) {
        Ok(number) if number > 0 => Ok((number, key & 7)),
        _ => Err(damaged(schema, "a field has no valid number")),
    }
}

fn varint(rest: &mut &[u8], schema: &MessageSchema) -> Result<usize> {
    prost::decode_length_delimiter(rest).map_err(|_| cut_short(schema))
}

/// Moves past one field; returns what a length-delimited field holds.
fn skip<'a>(
    rest: &mut &'a [u8],
    (number, wire_type): (u32, usize),
    schema: &MessageSchema,
    depth: usize,
) -> Result<&'a [u8]> {
    let len = match wire_type {
        VARINT => varint(rest, schema).map(|_| 0)?,
        FIXED64 => 8,
        LENGTH_DELIMITED => varint(rest, schema)?,
        START_GROUP => skip_group(rest, number, schema, depth).map(|()| 0)?,
        FIXED32 => 4,
        _ => return Err(damaged(schema, "a field has no valid wire type")),
    };
    let (content, after) = rest.split_at_checked(len).ok_or_else(|| cut_short(schema))?;
    *rest = after;
    Ok(content)
}

/// Moves past a group, a form that ONNX never uses but that protobuf allows in unknown fields.
fn skip_group(rest: &mut &[u8], number: u32, schema: &MessageSchema, depth: usize) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
    loop {
        match key(rest, schema)? {
            (inner, END_GROUP) if inner == number => return Ok(()),
            inner => skip(rest, inner, schema, depth).map(|_| ())?,
        }
    }
}

fn cut_short(schema: &MessageSchema) -> Error {
    damaged(schema, "the data ends in the middle of a field; the file is probably truncated")
}

fn too_deep() -> Error {
    Error::input(format!("messages are nested more than {MAX_DEPTH} deep"))
}

fn damaged(schema: &MessageSchema, reason: &str) -> Error {
    Error::input(format!("not an ONNX model, or a damaged one: {}: {reason}", schema.name))
}
