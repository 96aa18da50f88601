//! Encoding a model straight into a file: the bytes are those of `prost`, but weights are written from where
//! they are instead of through a second copy of the model.
//!
//! A message below [`STREAM_FROM`] bytes is encoded as a whole. A bigger one is written field by field, in
//! the order of field numbers that `prost` uses: its plain fields as partial messages (the encoding of a message
//! is the concatenation of the encodings of its fields), its big ones recursively, raw data as it is. The
//! patterns that take messages apart name every field, so that a new one is a compile error here.

use std::io::{self, Write};

use prost::Message;
use sha2::{Digest, Sha256};

use crate::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TrainingInfoProto,
};
use crate::texts::hexadecimal;

/// Messages of at least this many encoded bytes are taken apart.
const STREAM_FROM: usize = 16 << 10;

/// Wire type of length-delimited fields.
const LENGTH_DELIMITED: usize = 2;

/// Writes `model` to `out` exactly as `model.encode_to_vec()` would be, and returns the number of bytes.
///
/// # Errors
/// Whatever `out` fails with.
pub(super) fn write_model(model: &ModelProto, out: &mut impl Write) -> io::Result<u64> {
    let mut encoder = Encoder { out, scratch: Vec::new(), written: 0 };
    encoder.model(model)?;
    Ok(encoder.written)
}

/// SHA-256 of `model` as a file, its first 32 hexadecimal digits.
pub(crate) fn hash_of(model: &ModelProto) -> String {
    struct Hasher(Sha256);
    impl Write for Hasher {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hasher = Hasher(Sha256::new());
    // A hasher takes everything.
    let _ = write_model(model, &mut hasher);
    hexadecimal(&hasher.0.finalize()[..16])
}

/// Size of `model` as a protobuf, in bytes.
pub(super) fn encoded_len(model: &ModelProto) -> u64 {
    model.encoded_len() as u64
}

struct Encoder<'a, W> {
    out: &'a mut W,
    scratch: Vec<u8>,
    written: u64,
}

impl<W: Write> Encoder<'_, W> {
    fn model(&mut self, model: &ModelProto) -> io::Result<()> {
        let ModelProto {
            ir_version,
            producer_name,
            producer_version,
            domain,
            model_version,
            doc_string,
            graph,
            opset_import,
            metadata_props,
            training_info,
            functions,
            configuration,
        } = model;
        self.fields(&ModelProto {
            ir_version: *ir_version,
            producer_name: producer_name.clone(),
            producer_version: producer_version.clone(),
            domain: domain.clone(),
            model_version: *model_version,
            doc_string: doc_string.clone(),
            ..ModelProto::default()
        })?;
        self.nested(7, graph, Self::graph)?;
        self.whole(8, opset_import)?;
        self.whole(14, metadata_props)?;
        self.nested(20, training_info, Self::training_info)?;
        self.nested(25, functions, Self::function)?;
        self.whole(26, configuration)
    }

    fn graph(&mut self, graph: &GraphProto) -> io::Result<()> {
        let GraphProto {
            node,
            name,
            initializer,
            doc_string,
            input,
            output,
            value_info,
            quantization_annotation,
            sparse_initializer,
            metadata_props,
        } = graph;
        self.nested(1, node, Self::node)?;
        self.fields(&GraphProto { name: name.clone(), ..GraphProto::default() })?;
        self.nested(5, initializer, Self::tensor)?;
        self.fields(&GraphProto { doc_string: doc_string.clone(), ..GraphProto::default() })?;
        self.whole(11, input)?;
        self.whole(12, output)?;
        self.whole(13, value_info)?;
        self.whole(14, quantization_annotation)?;
        self.whole(15, sparse_initializer)?;
        self.whole(16, metadata_props)
    }

    fn node(&mut self, node: &NodeProto) -> io::Result<()> {
        let NodeProto {
            input,
            output,
            name,
            op_type,
            attribute,
            doc_string,
            domain,
            overload,
            metadata_props,
            device_configurations,
        } = node;
        self.fields(&NodeProto {
            input: input.clone(),
            output: output.clone(),
            name: name.clone(),
            op_type: op_type.clone(),
            ..NodeProto::default()
        })?;
        self.nested(5, attribute, Self::attribute)?;
        self.fields(&NodeProto {
            doc_string: doc_string.clone(),
            domain: domain.clone(),
            overload: overload.clone(),
            metadata_props: metadata_props.clone(),
            device_configurations: device_configurations.clone(),
            ..NodeProto::default()
        })
    }

    fn attribute(&mut self, attribute: &AttributeProto) -> io::Result<()> {
        let AttributeProto {
            name,
            f,
            i,
            s,
            t,
            g,
            floats,
            ints,
            strings,
            tensors,
            graphs,
            doc_string,
            tp,
            type_protos,
            r#type,
            ref_attr_name,
            sparse_tensor,
            sparse_tensors,
        } = attribute;
        self.fields(&AttributeProto { name: name.clone(), f: *f, i: *i, s: s.clone(), ..AttributeProto::default() })?;
        self.nested(5, t, Self::tensor)?;
        self.nested(6, g, Self::graph)?;
        self.fields(&AttributeProto {
            floats: floats.clone(),
            ints: ints.clone(),
            strings: strings.clone(),
            ..AttributeProto::default()
        })?;
        self.nested(10, tensors, Self::tensor)?;
        self.nested(11, graphs, Self::graph)?;
        self.fields(&AttributeProto {
            doc_string: doc_string.clone(),
            tp: tp.clone(),
            type_protos: type_protos.clone(),
            r#type: *r#type,
            ref_attr_name: ref_attr_name.clone(),
            sparse_tensor: sparse_tensor.clone(),
            sparse_tensors: sparse_tensors.clone(),
            ..AttributeProto::default()
        })
    }

    fn tensor(&mut self, tensor: &TensorProto) -> io::Result<()> {
        let TensorProto {
            dims,
            data_type,
            segment,
            float_data,
            int32_data,
            string_data,
            int64_data,
            name,
            raw_data,
            double_data,
            uint64_data,
            doc_string,
            external_data,
            data_location,
            metadata_props,
        } = tensor;
        let Some(raw) = raw_data else {
            return self.fields(tensor);
        };
        self.fields(&TensorProto {
            dims: dims.clone(),
            data_type: *data_type,
            segment: *segment,
            float_data: float_data.clone(),
            int32_data: int32_data.clone(),
            string_data: string_data.clone(),
            int64_data: int64_data.clone(),
            name: name.clone(),
            ..TensorProto::default()
        })?;
        self.prefix(9, raw.len())?;
        self.bytes(raw)?;
        self.fields(&TensorProto {
            double_data: double_data.clone(),
            uint64_data: uint64_data.clone(),
            doc_string: doc_string.clone(),
            external_data: external_data.clone(),
            data_location: *data_location,
            metadata_props: metadata_props.clone(),
            ..TensorProto::default()
        })
    }

    fn training_info(&mut self, training: &TrainingInfoProto) -> io::Result<()> {
        let TrainingInfoProto { initialization, algorithm, initialization_binding, update_binding } = training;
        self.nested(1, initialization, Self::graph)?;
        self.nested(2, algorithm, Self::graph)?;
        self.whole(3, initialization_binding)?;
        self.whole(4, update_binding)
    }

    fn function(&mut self, function: &FunctionProto) -> io::Result<()> {
        let FunctionProto {
            name,
            input,
            output,
            attribute,
            node,
            doc_string,
            opset_import,
            domain,
            attribute_proto,
            value_info,
            overload,
            metadata_props,
        } = function;
        self.fields(&FunctionProto {
            name: name.clone(),
            input: input.clone(),
            output: output.clone(),
            attribute: attribute.clone(),
            ..FunctionProto::default()
        })?;
        self.nested(7, node, Self::node)?;
        self.fields(&FunctionProto {
            doc_string: doc_string.clone(),
            opset_import: opset_import.clone(),
            domain: domain.clone(),
            ..FunctionProto::default()
        })?;
        self.nested(11, attribute_proto, Self::attribute)?;
        self.fields(&FunctionProto {
            value_info: value_info.clone(),
            overload: overload.clone(),
            metadata_props: metadata_props.clone(),
            ..FunctionProto::default()
        })
    }

    /// Field `number`, once for each of `messages`; big ones are taken apart by `body`.
    fn nested<'m, M: Message + 'm>(
        &mut self,
        number: usize,
        messages: impl IntoIterator<Item = &'m M>,
        body: fn(&mut Self, &M) -> io::Result<()>,
    ) -> io::Result<()> {
        for message in messages {
            let len = message.encoded_len();
            self.prefix(number, len)?;
            if len < STREAM_FROM {
                self.fields(message)?;
            } else {
                body(self, message)?;
            }
        }
        Ok(())
    }

    /// Field `number`, once for each of `messages`, encoded as a whole.
    fn whole<'m, M: Message + 'm>(
        &mut self,
        number: usize,
        messages: impl IntoIterator<Item = &'m M>,
    ) -> io::Result<()> {
        self.nested(number, messages, Self::fields)
    }

    /// The fields of `message`, without a length before them.
    fn fields<M: Message>(&mut self, message: &M) -> io::Result<()> {
        self.scratch.clear();
        message.encode(&mut self.scratch).map_err(io::Error::other)?;
        self.out.write_all(&self.scratch)?;
        self.written += self.scratch.len() as u64;
        Ok(())
    }

    /// Key and length of a length-delimited field.
    fn prefix(&mut self, number: usize, len: usize) -> io::Result<()> {
        let mut prefix = Vec::with_capacity(20);
        for varint in [number << 3 | LENGTH_DELIMITED, len] {
            prost::encode_length_delimiter(varint, &mut prefix).map_err(io::Error::other)?;
        }
        self.bytes(&prefix)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}
