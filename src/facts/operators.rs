//! tract's operators, built one node at a time.

use prost::Message;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb;
use tract_onnx::prelude::Tensor;
use tract_onnx::tract_hir::infer::InferenceOp;

use crate::graph::Functions;
use crate::onnx::opset_of;
use crate::onnx::proto::{ModelProto, NodeProto, TensorProto};

/// tract's operators, and the context in which it builds them.
pub(super) struct Operators {
    pub(super) framework: tract_onnx::Onnx,
    header: pb::ModelProto,
    opset: i64,
    pub(super) functions: Functions,
}

impl Operators {
    pub(super) fn new(model: &ModelProto) -> Self {
        let opset = opset_of(model, "").unwrap_or(0);
        let header = pb::ModelProto { ir_version: model.ir_version(), ..pb::ModelProto::default() };
        Self { framework: crate::runtime::framework(), header, opset, functions: Functions::of(model) }
    }

    fn context(&self) -> ParsingContext<'_> {
        ParsingContext {
            onnx_operator_set_version: self.opset,
            framework: &self.framework,
            model: &self.header,
            parent_graphs: vec![],
            model_dir: None,
            template: Default::default(),
        }
    }

    /// The operator of a node, and the names that its subgraphs capture.
    pub(super) fn build(&self, node: &NodeProto) -> Result<(Box<dyn InferenceOp>, Vec<String>), String> {
        let mut node = node.clone();
        node.op_type = Some(stand_in(&node).to_owned());
        crate::runtime::spell_out_default(&mut node);
        let builder = self.framework.op_register.0.get(node.op_type());
        let builder = builder.ok_or_else(|| format!("unknown operator {}", node.op_type()))?;
        let node = pb::NodeProto::decode(&*node.encode_to_vec()).map_err(|e| e.to_string())?;
        builder(&self.context(), &node).map_err(|e| format!("{e:#}"))
    }

    pub(super) fn load(&self, tensor: &TensorProto) -> Option<Tensor> {
        let tensor = pb::TensorProto::decode(&*tensor.encode_to_vec()).ok()?;
        self.context().load_tensor(&tensor).ok()
    }
}
/// The operator whose shapes a fused one has.
pub(super) fn stand_in(node: &NodeProto) -> &str {
    match (node.domain(), node.op_type()) {
        ("com.microsoft", "FusedConv") => "Conv",
        ("com.microsoft", "FusedGemm") => "Gemm",
        (_, op) => op,
    }
}
