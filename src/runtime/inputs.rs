//! What a graph wants to be fed: its declared inputs, and sizes for their open axes.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::element_count;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{GraphProto, TensorProto, ValueInfoProto, tensor_shape_proto, type_proto};
use crate::{Error, Result};

/// Longest text of a size that is evaluated, in bytes: it bounds the recursion over parentheses.
const LONGEST_EXPRESSION: usize = 512;

/// One axis of a declared input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// The size is fixed by the file.
    Fixed(usize),
    /// A symbol (`batch_size`) or an expression of symbols (`past + sequence`).
    Symbol(String),
    /// Open and unnamed.
    Unknown,
}

impl Dim {
    /// The size that the file fixes.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Self::Fixed(size) => Some(*size),
            Self::Symbol(_) | Self::Unknown => None,
        }
    }
}

/// An input that a caller must give: not one that an initializer already gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredInput {
    /// Name of the graph input.
    pub name: String,
    /// Element type.
    pub element: DataType,
    /// Axes; `None` when even the rank is open.
    pub dims: Option<Vec<Dim>>,
}

impl DeclaredInput {
    /// What an open axis is called: its symbol, or `input:axis`; `None` for a fixed one.
    pub fn axis_name(&self, axis: usize) -> Option<String> {
        match self.dims.as_ref()?.get(axis)? {
            Dim::Fixed(_) => None,
            Dim::Symbol(text) => Some(text.clone()),
            Dim::Unknown => Some(format!("{}:{axis}", self.name)),
        }
    }

    /// Size of axis 0 where the file fixes it: samples must be fed in batches of exactly that many.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.dims.as_ref()?.first()?.fixed()
    }
}

/// The inputs of `graph` that a caller must give, in graph order.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) when an input is not a tensor, or its element type is unknown.
pub fn declared_inputs(graph: &GraphProto) -> Result<Vec<DeclaredInput>> {
    let given: BTreeSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    graph.input.iter().filter(|input| !given.contains(input.name())).map(declared_input).collect()
}

fn declared_input(input: &ValueInfoProto) -> Result<DeclaredInput> {
    let name = input.name().to_owned();
    let value = input.r#type.as_ref().and_then(|r#type| r#type.value.as_ref());
    let Some(type_proto::Value::TensorType(tensor)) = value else {
        let message = format!("input '{name}' is not a tensor; paredown runs models with tensor inputs only");
        return Err(Error::input(message));
    };
    let element = tensor.elem_type.and_then(|code| DataType::try_from(code).ok()).filter(|&e| e != DataType::Undefined);
    let element = element.ok_or_else(|| Error::input(format!("input '{name}' has no known element type")))?;
    let dims =
        tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|dim| declared_dim(dim.value.as_ref())).collect());
    Ok(DeclaredInput { name, element, dims })
}

fn declared_dim(value: Option<&tensor_shape_proto::dimension::Value>) -> Dim {
    use tensor_shape_proto::dimension::Value;
    match value {
        // Some exporters write -1 for an open axis.
        Some(Value::DimValue(size)) => usize::try_from(*size).map_or(Dim::Unknown, Dim::Fixed),
        Some(Value::DimParam(symbol)) if !matches!(symbol.trim(), "" | "?") => Dim::Symbol(symbol.trim().to_owned()),
        Some(Value::DimParam(_)) | None => Dim::Unknown,
    }
}

/// Sizes for open axes: some by name, and a default for batches and for the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DimSizes {
    /// By symbol (`sequence_length`) or by place (`input_ids:1`).
    pub named: BTreeMap<String, usize>,
    /// What is tried first for open axes that have no size by name: that of the samples.
    pub typical: BTreeMap<String, usize>,
    /// Inputs of integers that have the same elements in every sample.
    pub values: BTreeMap<String, Vec<i64>>,
    /// The open axes that have the same size in every sample.
    pub alike: BTreeSet<String>,
    /// The open axes that count as having one size only.
    pub fixed: BTreeSet<String>,
    /// The open axes that count the samples of a batch, and so have one size.
    pub samples: BTreeSet<String>,
    /// Axis 0 of an input where it is open, the axes of `samples`, and whatever shares their symbols.
    pub batch: usize,
    /// Every other open axis.
    pub other: usize,
}

impl Default for DimSizes {
    fn default() -> Self {
        Self {
            named: BTreeMap::new(),
            typical: BTreeMap::new(),
            values: BTreeMap::new(),
            alike: BTreeSet::new(),
            fixed: BTreeSet::new(),
            samples: BTreeSet::new(),
            batch: 1,
            other: 128,
        }
    }
}

impl DimSizes {
    /// The default sizes, with `batch` samples at once.
    pub fn with_batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Adds `NAME=SIZE`, as typed after `--dim`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when it does not have that form.
    pub fn add(&mut self, typed: &str) -> Result<()> {
        let wrong = || Error::usage(format!("`dim` wants NAME=SIZE, for instance sequence_length=64, not '{typed}'"));
        let (name, size) = typed.rsplit_once('=').ok_or_else(wrong)?;
        let size = usize::from_str(size.trim()).map_err(|_| wrong())?;
        if name.trim().is_empty() {
            return Err(wrong());
        }
        self.named.insert(name.trim().to_owned(), size);
        Ok(())
    }

    /// Refuses a named size that no input uses, which is most likely a typing error.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) with the names that exist.
    pub fn check_names(&self, inputs: &[DeclaredInput]) -> Result<()> {
        let mut known: BTreeSet<String> = BTreeSet::new();
        for (input, axis, dim) in open_axes(inputs) {
            known.insert(format!("{}:{axis}", input.name));
            if let Dim::Symbol(text) = dim {
                known.insert(text.clone());
                known.extend(symbols_in(text, inputs).into_iter().map(str::to_owned));
            }
        }
        match self.named.keys().find(|name| !known.contains(*name)) {
            None => Ok(()),
            Some(name) if known.is_empty() => {
                Err(Error::usage(format!("`dim` {name}: this model has no dynamic axes")))
            }
            Some(name) => {
                let known: Vec<String> = known.into_iter().collect();
                Err(Error::usage(format!("`dim` {name}: no such dynamic axis; the model has {}", known.join(", "))))
            }
        }
    }

    /// A concrete shape for each of `inputs`, in the same order.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when a rank is unknown, an expression cannot be evaluated, or a size is negative or
    /// overflows; the message says which `--dim` settles it.
    pub fn resolve(&self, inputs: &[DeclaredInput]) -> Result<Vec<(String, Vec<usize>)>> {
        let symbols = self.symbol_sizes(inputs);
        inputs.iter().map(|input| Ok((input.name.clone(), self.shape_of(input, &symbols)?))).collect()
    }

    /// The size of every symbol that stands alone on some axis or inside an expression.
    pub fn symbol_sizes(&self, inputs: &[DeclaredInput]) -> BTreeMap<String, usize> {
        let mut sizes = BTreeMap::new();
        for (_, _, dim) in open_axes(inputs) {
            if let Dim::Symbol(text) = dim {
                sizes.extend(symbols_in(text, inputs).into_iter().map(|symbol| (symbol.to_owned(), self.other)));
            }
        }
        for (_, axis, dim) in open_axes(inputs) {
            if let Dim::Symbol(text) = dim
                && (axis == 0 || self.samples.contains(text))
            {
                sizes.entry(text.clone()).and_modify(|size| *size = self.batch);
            }
        }
        sizes.extend(self.named.iter().map(|(name, &size)| (name.clone(), size)));
        sizes
    }

    fn shape_of(&self, input: &DeclaredInput, symbols: &BTreeMap<String, usize>) -> Result<Vec<usize>> {
        let dims = input.dims.as_ref().ok_or_else(|| {
            Error::input(format!(
                "input '{}' has no declared rank; give the model's inputs a shape when exporting it",
                input.name
            ))
        })?;
        let size_of = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Fixed(size) => Ok(*size),
            open => self.open_size(&input.name, axis, open, symbols),
        };
        let shape: Vec<usize> = dims.iter().enumerate().map(size_of).collect::<Result<_>>()?;
        match element_count(&shape) {
            Some(_) => Ok(shape),
            None => Err(Error::input(format!("the size of input '{}' overflows: {shape:?}", input.name))),
        }
    }

    fn open_size(&self, input: &str, axis: usize, dim: &Dim, symbols: &BTreeMap<String, usize>) -> Result<usize> {
        let place = format!("{input}:{axis}");
        if let Some(&size) = self.named.get(&place) {
            return Ok(size);
        }
        match dim {
            Dim::Symbol(text) => match symbols.get(text) {
                Some(&size) => Ok(size),
                None => evaluate(text, symbols).ok_or_else(|| {
                    Error::input(format!("axis {axis} of input '{input}' has size '{text}', which cannot be evaluated; pass `dim` {place}=SIZE"))
                }),
            },
            _ if axis == 0 || self.samples.contains(&place) => Ok(self.batch),
            _ => Ok(self.other),
        }
    }
}

fn open_axes(inputs: &[DeclaredInput]) -> impl Iterator<Item = (&DeclaredInput, usize, &Dim)> {
    let axes = |input| -> Vec<_> {
        let input: &DeclaredInput = input;
        input.dims.iter().flatten().enumerate().map(|(axis, dim)| (input, axis, dim)).collect()
    };
    inputs.iter().flat_map(axes).filter(|(_, _, dim)| !matches!(dim, Dim::Fixed(_)))
}

/// Whether `c` may stand in a symbol.
fn is_symbol_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | ':' | '/' | '#' | '$' | '@')
}

/// The symbols of a size of one of `inputs`.
fn symbols_in<'t>(text: &'t str, inputs: &[DeclaredInput]) -> Vec<&'t str> {
    if is_hyphenated(text, inputs) {
        return vec![text];
    }
    let words = text.split(|c| !is_symbol_char(c));
    words.filter(|word| word.chars().next().is_some_and(|c| !c.is_ascii_digit())).collect()
}

/// Whether a text such as `batch-size` is one symbol: words joined without spaces, of which some stands on no axis by itself.
fn is_hyphenated(text: &str, inputs: &[DeclaredInput]) -> bool {
    let is_word = |word: &str| word.starts_with(char::is_alphabetic) && word.chars().all(is_symbol_char);
    let stands_alone = |word: &str| open_axes(inputs).any(|(_, _, dim)| matches!(dim, Dim::Symbol(s) if s == word));
    text.contains('-') && text.split('-').all(is_word) && !text.split('-').all(stands_alone)
}

/// The value of an expression of symbols, integers, `+`, `-`, `*` and parentheses; `None` when it is anything else,
/// mentions an unknown symbol, is negative or overflows.
pub(crate) fn evaluate(expression: &str, symbols: &BTreeMap<String, usize>) -> Option<usize> {
    if expression.len() > LONGEST_EXPRESSION {
        return None;
    }
    let tokens = tokens(expression);
    let mut rest = tokens.as_slice();
    let value = sum(&mut rest, symbols)?;
    if rest.is_empty() { usize::try_from(value).ok() } else { None }
}

fn tokens(expression: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = if is_symbol_char(first) {
            rest.find(|c| !is_symbol_char(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(end);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

fn sum(rest: &mut &[&str], symbols: &BTreeMap<String, usize>) -> Option<i64> {
    let mut total = product(rest, symbols)?;
    while let Some((&sign @ ("+" | "-"), after)) = rest.split_first() {
        *rest = after;
        let term = product(rest, symbols)?;
        total = if sign == "+" { total.checked_add(term)? } else { total.checked_sub(term)? };
    }
    Some(total)
}

fn product(rest: &mut &[&str], symbols: &BTreeMap<String, usize>) -> Option<i64> {
    let mut total = operand(rest, symbols)?;
    while let Some((&"*", after)) = rest.split_first() {
        *rest = after;
        total = total.checked_mul(operand(rest, symbols)?)?;
    }
    Some(total)
}

fn operand(rest: &mut &[&str], symbols: &BTreeMap<String, usize>) -> Option<i64> {
    let (&token, after) = rest.split_first()?;
    *rest = after;
    match token {
        "(" => {
            let value = sum(rest, symbols)?;
            let (&close, after) = rest.split_first()?;
            *rest = after;
            (close == ")").then_some(value)
        }
        "-" => operand(rest, symbols)?.checked_neg(),
        number if number.starts_with(|c: char| c.is_ascii_digit()) => number.parse().ok(),
        symbol => symbols.get(symbol).and_then(|&size| i64::try_from(size).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, dims: &[Dim]) -> DeclaredInput {
        DeclaredInput { name: name.into(), element: DataType::Float, dims: Some(dims.to_vec()) }
    }

    fn symbol(text: &str) -> Dim {
        Dim::Symbol(text.into())
    }

    #[test]
    fn expressions_follow_the_usual_precedence() {
        let symbols = BTreeMap::from([("a".to_owned(), 3), ("past_len".to_owned(), 10)]);
        for (text, value) in
            [("a + past_len", 13), ("2*a+1", 7), ("2*(a+1)", 8), ("past_len - a - 1", 6), ("-a + 4", 1), ("7", 7)]
        {
            assert_eq!(evaluate(text, &symbols), Some(value), "{text}");
        }
        for text in ["a - past_len", "a / 2", "b", "a +", "(a", "a a", "99999999999999999999", ""] {
            assert_eq!(evaluate(text, &symbols), None, "{text}");
        }
        assert_eq!(evaluate(&"(".repeat(100_000), &symbols), None);
    }

    #[test]
    fn axis_zero_is_the_batch_and_shares_its_symbol() {
        let inputs =
            [input("x", &[symbol("n"), symbol("length")]), input("y", &[Dim::Fixed(4), symbol("n"), Dim::Unknown])];
        let shapes = DimSizes::default().with_batch(8).resolve(&inputs).unwrap();
        assert_eq!(shapes, [("x".to_owned(), vec![8, 128]), ("y".to_owned(), vec![4, 8, 128])]);
    }

    #[test]
    fn named_sizes_go_by_symbol_and_by_place() {
        let inputs = [input("x", &[symbol("batch"), symbol("past + new"), Dim::Unknown])];
        let mut sizes = DimSizes::default();
        for typed in ["past=5", "new = 2", "x:2=7"] {
            sizes.add(typed).unwrap();
        }
        sizes.check_names(&inputs).unwrap();
        assert_eq!(sizes.resolve(&inputs).unwrap()[0].1, [1, 7, 7]);
    }

    #[test]
    fn a_misspelt_name_is_refused_with_the_names_that_exist() {
        let inputs = [input("x", &[symbol("batch"), Dim::Fixed(3)])];
        let mut sizes = DimSizes::default();
        sizes.add("bach=2").unwrap();
        let error = sizes.check_names(&inputs).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Usage);
        assert!(error.to_string().contains("the model has batch, x:0"), "{error}");
        for typed in ["batch", "batch=", "=3", "batch=-1", "batch=1.5"] {
            assert!(sizes.add(typed).is_err(), "{typed}");
        }
    }

    /// `batch-size` was read as `batch` minus `size`, which is 0.
    #[test]
    fn a_hyphen_in_a_name_is_no_subtraction() {
        let mut sizes = DimSizes::default().with_batch(3);
        let inputs = [input("x", &[symbol("batch-size"), symbol("seq-len")]), input("y", &[symbol("batch-size")])];
        assert_eq!(sizes.resolve(&inputs).unwrap()[0].1, [3, 128]);
        sizes.add("batch-size=5").unwrap();
        sizes.check_names(&inputs).unwrap();
        assert_eq!(sizes.resolve(&inputs).unwrap(), [("x".to_owned(), vec![5, 128]), ("y".to_owned(), vec![5])]);
        let difference = [input("x", &[symbol("all"), symbol("past"), symbol("all-past")])];
        assert_eq!(DimSizes::default().with_batch(200).resolve(&difference).unwrap()[0].1, [200, 128, 72]);
    }

    #[test]
    fn what_cannot_be_evaluated_says_how_to_settle_it() {
        let inputs = [input("x", &[symbol("batch"), symbol("floor(n/2)")])];
        let error = DimSizes::default().resolve(&inputs).unwrap_err();
        assert!(error.to_string().contains("`dim` x:1=SIZE"), "{error}");
        let huge = [input("x", &[Dim::Fixed(usize::MAX), Dim::Fixed(2)])];
        assert!(DimSizes::default().resolve(&huge).unwrap_err().to_string().contains("overflows"));
    }
}
