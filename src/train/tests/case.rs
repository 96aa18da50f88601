//! One operator with operands, whose gradients are compared with central differences in float64.

use std::collections::BTreeSet;

use crate::onnx::attributes;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{ModelProto, NodeProto};
use crate::onnx::tensor::{ElementType, from_f64_as};
use crate::runtime;
use crate::runtime::sample_models::{integers, model, node, tensor_value};
use crate::train::{Program, Tensor, Wanted};

/// An operator and its operands.
#[derive(Debug, Clone)]
pub(super) struct Case {
    node: NodeProto,
    reals: Vec<(String, Vec<usize>, Vec<f64>)>,
    lists: Vec<(String, Vec<i64>, bool)>,
    results: usize,
    opset: i64,
}

impl Case {
    pub(super) fn new(op: &str) -> Self {
        let (domain, op) = op.rsplit_once('.').unwrap_or(("", op));
        let mut node = node(op, &[], &[], vec![]);
        node.domain = Some(domain.to_owned());
        Self { node, reals: Vec::new(), lists: Vec::new(), results: 1, opset: 22 }
    }

    pub(super) fn opset(mut self, opset: i64) -> Self {
        self.opset = opset;
        self
    }

    pub(super) fn results(mut self, results: usize) -> Self {
        self.results = results;
        self
    }

    fn operand(&mut self) -> String {
        let name = format!("p{}", self.node.input.len());
        self.node.input.push(name.clone());
        name
    }

    /// A real operand with values that look random in −1..1 and are not close to each other or to a kink.
    pub(super) fn real(self, dims: &[usize]) -> Self {
        self.real_in(dims, -1.0, 1.0)
    }

    /// A real operand with values in `low..high`.
    pub(super) fn real_in(mut self, dims: &[usize], low: f64, high: f64) -> Self {
        let name = self.operand();
        let count: usize = dims.iter().product();
        let offset = (self.reals.len() * 7919) as f64;
        // Multiples of the golden ratio fill the interval evenly and never meet.
        let value = |i: usize| (((i + 1) as f64 + offset) * 0.618_033_988_749_895).fract();
        let values = (0..count).map(|i| low + (high - low) * value(i)).collect();
        self.reals.push((name, dims.to_vec(), values));
        self
    }

    /// An operand of integers.
    pub(super) fn list(mut self, values: &[i64]) -> Self {
        let name = self.operand();
        self.lists.push((name, values.to_vec(), false));
        self
    }

    /// A truth value for each entry.
    pub(super) fn flags(mut self, values: &[i64]) -> Self {
        let name = self.operand();
        self.lists.push((name, values.to_vec(), true));
        self
    }

    pub(super) fn absent(mut self) -> Self {
        self.node.input.push(String::new());
        self
    }

    pub(super) fn int(mut self, name: &str, value: i64) -> Self {
        attributes::set_int(&mut self.node, name, value);
        self
    }

    pub(super) fn ints(mut self, name: &str, values: &[i64]) -> Self {
        attributes::set_ints(&mut self.node, name, values);
        self
    }

    pub(super) fn float(mut self, name: &str, value: f32) -> Self {
        attributes::set_float(&mut self.node, name, value);
        self
    }

    pub(super) fn floats(mut self, name: &str, values: &[f32]) -> Self {
        attributes::set_floats(&mut self.node, name, values);
        self
    }

    pub(super) fn text(mut self, name: &str, value: &str) -> Self {
        attributes::set_string(&mut self.node, name, value);
        self
    }

    /// The model: every real operand times an input of ones, then the operator.
    pub(super) fn model(&self, element: ElementType) -> ModelProto {
        let mut operator = self.node.clone();
        operator.output = (0..self.results).map(|i| format!("y{i}")).collect();
        operator.name = Some("operator".to_owned());
        let mut nodes = Vec::new();
        let mut initializers = Vec::new();
        for (name, dims, values) in &self.reals {
            let scaled = format!("{name}_scaled");
            nodes.push(node("Mul", &[name, "one"], &[&scaled], vec![]));
            operator.input.iter_mut().filter(|input| *input == name).for_each(|input| input.clone_from(&scaled));
            initializers.push(from_f64_as(name, dims, values, element).unwrap());
        }
        for (name, values, is_truth) in &self.lists {
            let mut tensor = integers(name, &[i64::try_from(values.len()).unwrap()], values);
            if *is_truth {
                let bytes: Vec<u8> = values.iter().map(|&v| u8::try_from(v).unwrap()).collect();
                (tensor.data_type, tensor.raw_data) = (Some(DataType::Bool as i32), Some(bytes.into()));
                tensor.int64_data.clear();
            }
            initializers.push(tensor);
        }
        nodes.push(operator);
        let code = DataType::try_from(element.code()).unwrap();
        let outputs = (0..self.results).map(|i| tensor_value(&format!("y{i}"), code, &[])).collect::<Vec<_>>();
        let outputs = outputs.into_iter().map(without_shape).collect();
        let mut model = model(vec![tensor_value("one", code, &["1"])], nodes, initializers, outputs);
        model.opset_import[0].version = Some(self.opset);
        let mut microsoft = model.opset_import[0].clone();
        (microsoft.domain, microsoft.version) = (Some("com.microsoft".to_owned()), Some(1));
        model.opset_import.push(microsoft);
        model
    }

    /// Compares all gradients of a weighed sum of the results with central differences.
    pub(super) fn check(&self) {
        let what = format!("{} {:?}", self.node.op_type(), self.reals.iter().map(|r| &r.1).collect::<Vec<_>>());
        let model = self.model(ElementType::Double);
        let mut program: Program<f64> =
            Program::new(&model, Wanted::Parameters(&|_| true)).unwrap_or_else(|e| panic!("{what}: {e}"));
        let large: BTreeSet<&str> = self.reals.iter().filter(|r| r.2.len() > 1).map(|r| r.0.as_str()).collect();
        let found: BTreeSet<&str> = program.parameters().iter().map(|p| p.name.as_str()).collect();
        assert_eq!(found, large, "{what}: trained tensors");
        let loss = |program: &Program<f64>| loss(program).unwrap_or_else(|e| panic!("{what}: {e}"));
        let (sum, leaves) = loss(&program);
        let gradients = sum.backward().unwrap();
        for (number, leaf) in leaves.iter().enumerate() {
            let name = program.parameters()[number].name.clone();
            let values = leaf.data().to_vec();
            let gradient = gradients.of(leaf).map_or_else(|| vec![0.0; values.len()], <[f64]>::to_vec);
            assert_eq!(gradient.len(), values.len(), "{what}: gradient of {name}");
            let scale = gradient.iter().fold(1e-3, |m: f64, g| m.max(g.abs()));
            for index in (0..values.len()).step_by(values.len().div_ceil(24)) {
                let h = 1e-6;
                let mut at = |delta: f64| {
                    program.parameters_mut()[number].value.data_mut()[index] = values[index] + delta;
                    loss(&program).0.item().unwrap()
                };
                let expected = (at(h) - at(-h)) / (2.0 * h);
                at(0.0);
                let error = (gradient[index] - expected).abs();
                assert!(
                    error < 1e-3 * scale,
                    "{what}: gradient of {name}[{index}] is {}, by differences {expected}",
                    gradient[index]
                );
            }
        }
    }

    /// Compares the results in float32 with tract's.
    pub(super) fn check_forward(&self) {
        let what = format!("{} {:?}", self.node.op_type(), self.reals.iter().map(|r| &r.1).collect::<Vec<_>>());
        let model = self.model(ElementType::Float);
        let runnable = runtime::Runnable::new(&model, &runtime::RunOptions::default());
        let inputs = vec![("one".to_owned(), runtime::Tensor::new(&[1], &[1_f32]).unwrap())];
        let expected = runnable.and_then(|r| r.run(&inputs)).unwrap_or_else(|e| panic!("{what}: {e}"));
        let program: Program = Program::new(&model, Wanted::Parameters(&|_| true)).unwrap();
        let found = program.run(&inputs, 1).unwrap_or_else(|e| panic!("{what}: {e}")).outputs;
        for (name, found) in found {
            let (_, expected) = expected.iter().find(|(known, _)| *known == name).unwrap();
            assert_eq!(found.dims(), expected.shape(), "{what}");
            for (a, b) in found.data().iter().zip(expected.to_vec::<f32>().unwrap()) {
                assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{what}: {a} where tract has {b}");
            }
        }
    }
}

fn without_shape(mut value: crate::onnx::proto::ValueInfoProto) -> crate::onnx::proto::ValueInfoProto {
    use crate::onnx::proto::type_proto::Value;
    if let Some(Value::TensorType(tensor)) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        tensor.shape = None;
    }
    value
}

/// The sum of all results, each element with a weight of its own, and the trained tensors.
fn loss(program: &Program<f64>) -> crate::Result<(Tensor<f64>, Vec<Tensor<f64>>)> {
    let one = runtime::Tensor::new(&[1], &[1_f64])?;
    let run = program.run(&[("one".to_owned(), one)], 1)?;
    let mut sum = Tensor::filled([], 0.0);
    for (_, y) in run.outputs {
        let weights: Vec<f64> = (0..y.len()).map(|i| (i as f64 * 1.3 + 0.4).cos()).collect();
        sum = sum.plus(&y.times(&Tensor::new(y.dims(), weights)?)?.sum()?)?;
    }
    Ok((sum, run.parameters))
}
