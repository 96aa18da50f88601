//! Attributes by type: what is read, what is refused, what is written.

use paredown::internals::onnx::attributes::{self, Attributes};
use paredown::internals::onnx::proto::attribute_proto::AttributeType;
use paredown::internals::onnx::proto::{AttributeProto, GraphProto, NodeProto};
use paredown::internals::onnx::tensor;

use crate::samples::node;

fn with_every_type() -> NodeProto {
    let mut all = node("Op", &["x"], &["y"]);
    attributes::set_int(&mut all, "int", -3);
    attributes::set_ints(&mut all, "ints", &[1, 2]);
    attributes::set_float(&mut all, "float", 0.5);
    attributes::set_floats(&mut all, "floats", &[0.5, 1.5]);
    attributes::set_string(&mut all, "string", "NOTSET");
    attributes::set_tensor(&mut all, "tensor", tensor::scalar_i64("", 9));
    attributes::set_graph(&mut all, "graph", GraphProto { name: Some("body".into()), ..GraphProto::default() });
    all
}

#[test]
fn what_was_set_is_read() {
    let all = with_every_type();
    let read = Attributes::of(&all);
    assert_eq!(read.int("int").unwrap(), Some(-3));
    assert_eq!(read.int_or("absent", 7).unwrap(), 7);
    assert_eq!(read.ints("ints").unwrap(), Some([1, 2].as_slice()));
    assert_eq!(read.float("float").unwrap(), Some(0.5));
    assert_eq!(read.float_or("absent", 2.0).unwrap(), 2.0);
    assert_eq!(read.floats("floats").unwrap(), Some([0.5, 1.5].as_slice()));
    assert_eq!(read.string("string").unwrap(), Some("NOTSET"));
    assert_eq!(read.tensor("tensor").unwrap(), Some(&tensor::scalar_i64("", 9)));
    assert_eq!(read.graph("graph").unwrap().unwrap().name(), "body");
    assert_eq!(read.strings("absent").unwrap(), None);
    assert_eq!(read.require("int", Attributes::int).unwrap(), -3);
}

#[test]
fn errors_name_node_attribute_and_types() {
    let mut all = with_every_type();
    all.attribute.push(AttributeProto {
        name: Some("referring".into()),
        ref_attr_name: Some("outer".into()),
        r#type: Some(AttributeType::Int.into()),
        ..AttributeProto::default()
    });
    let read = Attributes::of(&all);
    let error = read.int("ints").unwrap_err();
    assert_eq!(error.node(), Some("Op_of_y"));
    assert_eq!(error.to_string(), "node 'Op_of_y': attribute 'ints' is INTS, expected INT");
    let error = read.require("absent", Attributes::int).unwrap_err();
    assert_eq!(error.to_string(), "node 'Op_of_y': attribute 'absent' is missing");
    let error = read.int("referring").unwrap_err();
    assert!(error.to_string().contains("'referring' refers to 'outer' of the enclosing function"), "{error}");
}

/// Nobody may overlook an attribute: those that were not asked for are listed.
#[test]
fn unread_attributes_are_listed() {
    let all = with_every_type();
    let read = Attributes::of(&all);
    read.int("int").unwrap();
    read.string("string").unwrap();
    let _ = read.int("tensor"); // asked for, if with the wrong type
    assert_eq!(read.unread(), ["ints", "float", "floats", "graph"]);
}

/// Files of IR version 1 do not state the type; writers that omit zeros do not write `i: 0`.
#[test]
fn a_missing_type_follows_from_the_value_and_a_missing_value_is_zero() {
    let attribute = |name: &str| AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
    let old = NodeProto {
        attribute: vec![
            AttributeProto { ints: vec![3, 3], ..attribute("kernel_shape") },
            AttributeProto { r#type: Some(AttributeType::Int.into()), ..attribute("axis") },
            attribute("nothing"),
        ],
        ..node("Op", &[], &[])
    };
    let read = Attributes::of(&old);
    assert_eq!(read.ints("kernel_shape").unwrap(), Some([3, 3].as_slice()));
    assert_eq!(read.int("axis").unwrap(), Some(0));
    assert!(read.int("nothing").unwrap_err().to_string().contains("is of unknown type, expected INT"));
}

#[test]
fn setting_replaces_in_place_and_removing_removes() {
    let mut all = with_every_type();
    attributes::set_ints(&mut all, "int", &[5]);
    assert_eq!(all.attribute.len(), 7);
    assert_eq!(all.attribute[0].name(), "int");
    assert_eq!(all.attribute[0].i, None);
    assert_eq!(Attributes::of(&all).ints("int").unwrap(), Some([5].as_slice()));
    assert!(attributes::remove(&mut all, "int"));
    assert!(!attributes::remove(&mut all, "int"));
    assert_eq!(all.attribute.len(), 6);
}

#[test]
fn subgraphs_are_found_in_both_kinds_of_attribute() {
    let graph = |name: &str| GraphProto { name: Some(name.into()), ..GraphProto::default() };
    let mut all = with_every_type();
    all.attribute.push(AttributeProto {
        name: Some("graphs".into()),
        graphs: vec![graph("a"), graph("b")],
        ..AttributeProto::default()
    });
    let found: Vec<(&str, &str)> = attributes::subgraphs(&all).map(|(name, graph)| (name, graph.name())).collect();
    assert_eq!(found, [("graph", "body"), ("graphs", "a"), ("graphs", "b")]);
    for graph in attributes::subgraphs_mut(&mut all) {
        graph.doc_string = Some("seen".into());
    }
    assert!(attributes::subgraphs(&all).all(|(_, graph)| graph.doc_string() == "seen"));
}
