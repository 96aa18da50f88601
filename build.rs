//! Turns `proto/onnx.proto` into Rust: the message types (`onnx.rs`) and, for the warning about unknown
//! fields, a table of every message with its field numbers (`schema.rs`).

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use protox::prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

const PROTO: &str = "proto/onnx.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={PROTO}");
    let descriptors = protox::compile([PROTO], ["proto"])?;
    let pool = DescriptorPool::from_file_descriptor_set(descriptors.clone())?;
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(Path::new(&out).join("schema.rs"), schema_table(&pool))?;
    prost_build::Config::new()
        .bytes(["."])
        // Rare, and half of the size of every attribute if they were inline.
        .boxed(".onnx.AttributeProto.sparse_tensor")
        .boxed(".onnx.AttributeProto.tp")
        .compile_fds(descriptors)?;
    Ok(())
}

/// `MESSAGES`: name, size in memory, then (field number, index of the message that the field holds) in ascending
/// order.
fn schema_table(pool: &DescriptorPool) -> String {
    let mut messages: Vec<MessageDescriptor> = pool.all_messages().collect();
    messages.sort_by(|a, b| a.full_name().cmp(b.full_name()));
    let index_of = |wanted: &MessageDescriptor| messages.iter().position(|message| message == wanted);
    let mut table = String::from("static MESSAGES: &[MessageSchema] = &[\n");
    for message in &messages {
        let mut fields: Vec<(u32, Option<usize>)> = message
            .fields()
            .map(|field| match field.kind() {
                Kind::Message(child) => (field.number(), index_of(&child)),
                _ => (field.number(), None),
            })
            .collect();
        fields.sort_unstable();
        let name = message.full_name().trim_start_matches("onnx.");
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "    MessageSchema {{ name: {name:?}, bytes: size_of::<proto::{}>(), fields: &{fields:?} }},",
            rust_path(name)
        );
    }
    table.push_str("];\n");
    table
}

/// Where `prost` puts a message: `TypeProto.Map` becomes `type_proto::Map`.
fn rust_path(name: &str) -> String {
    let Some((parent, child)) = name.rsplit_once('.') else { return name.to_owned() };
    let mut module = String::new();
    for (position, letter) in parent.char_indices() {
        if letter.is_ascii_uppercase() && position > 0 {
            module.push('_');
        }
        module.push(letter.to_ascii_lowercase());
    }
    format!("{module}::{child}")
}
