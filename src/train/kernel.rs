//! Operators whose gradient is ours, on the tape of candle.
//!
//! candle keeps the tape, multiplies matrices and moves axes. Everything else is a [`Kernel`]: a function of slices and its
//! gradient, written once for float32 (training) and float64 (tests by central differences).

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, bail};
use candle_core::{WithDType, backend::BackendStorage};
use ndarray::LinalgScalar;

/// An element type that is trained in.
pub(super) trait Real: WithDType + LinalgScalar {}

impl Real for f32 {}
impl Real for f64 {}

/// A row-major tensor, borrowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Array<'a, T> {
    pub(super) data: &'a [T],
    pub(super) dims: &'a [usize],
}

/// An operator of one to three real operands and its gradient.
pub(super) trait Kernel: Send + Sync + 'static {
    /// Name in messages.
    fn name(&self) -> &'static str;

    /// The result and its shape.
    fn forward<T: Real>(&self, args: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)>;

    /// The gradients of the operands that are `wanted`, from the operands, the result and the gradient of the result.
    fn backward<T: Real>(
        &self,
        args: &[Array<'_, T>],
        result: Array<'_, T>,
        grad: Array<'_, T>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Vec<T>>>>;
}

/// The result of `kernel` on the tape.
pub(super) fn apply<K: Kernel>(kernel: K, args: &[&Tensor]) -> Result<Tensor> {
    let args: Vec<Tensor> = args.iter().map(|arg| arg.contiguous()).collect::<Result<_>>()?;
    let op = Custom(kernel);
    match args.as_slice() {
        [a] => a.apply_op1(op),
        [a, b] => a.apply_op2(b, op),
        [a, b, c] => a.apply_op3(b, c, op),
        _ => bail!("{} takes one to three operands", op.0.name()),
    }
}

struct Custom<K>(K);

impl<K: Kernel> Custom<K> {
    fn forward(&self, operands: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        match operands.first().map(|(storage, _)| storage.dtype()) {
            Some(DType::F32) => self.forward_as::<f32>(operands),
            Some(DType::F64) => self.forward_as::<f64>(operands),
            other => bail!("{} does not run on {other:?}", self.0.name()),
        }
    }

    fn forward_as<T: Real>(&self, operands: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        let args = operands.iter().map(|&(storage, layout)| array::<T>(storage, layout)).collect::<Result<Vec<_>>>()?;
        let (data, dims) = self.0.forward(&args)?;
        Ok((T::to_cpu_storage_owned(data), Shape::from(dims)))
    }

    fn backward(&self, args: &[&Tensor], result: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        match result.dtype() {
            DType::F64 => self.backward_as::<f64>(args, result, grad),
            _ => self.backward_as::<f32>(args, result, grad),
        }
    }

    fn backward_as<T: Real>(&self, args: &[&Tensor], result: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let wanted: Vec<bool> = args.iter().map(|arg| arg.track_op()).collect();
        let all: Vec<Tensor> =
            args.iter().copied().chain([result, grad]).map(Tensor::contiguous).collect::<Result<_>>()?;
        let guards: Vec<_> = all.iter().map(Tensor::storage_and_layout).collect();
        let mut arrays = Vec::with_capacity(guards.len());
        for (storage, layout) in &guards {
            match &**storage {
                Storage::Cpu(cpu) => arrays.push(array::<T>(cpu, layout)?),
                _ => bail!("{} runs on the CPU only", self.0.name()),
            }
        }
        let [operands @ .., result, grad] = arrays.as_slice() else { bail!("{} has no operands", self.0.name()) };
        let gradients = self.0.backward(operands, *result, *grad, &wanted)?;
        let tensor = |(values, arg): (Option<Vec<T>>, &&Tensor)| {
            values.map(|values| Tensor::from_vec(values, arg.dims(), arg.device())).transpose()
        };
        gradients.into_iter().zip(args).map(tensor).collect()
    }
}

/// The elements of a contiguous tensor.
fn array<'a, T: Real>(storage: &'a CpuStorage, layout: &'a Layout) -> Result<Array<'a, T>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("an operand is not contiguous") };
    Ok(Array { data: &T::cpu_storage_as_slice(storage)?[start..end], dims: layout.dims() })
}

impl<K: Kernel> CustomOp1 for Custom<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(storage, layout)])
    }

    fn bwd(&self, arg: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.backward(&[arg], result, grad)?.pop().flatten())
    }
}

impl<K: Kernel> CustomOp2 for Custom<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(s1, l1), (s2, l2)])
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, result: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.backward(&[a, b], result, grad)?.into_iter();
        Ok((gradients.next().flatten(), gradients.next().flatten()))
    }
}

impl<K: Kernel> CustomOp3 for Custom<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.backward(&[a, b, c], result, grad)?.into_iter();
        Ok((gradients.next().flatten(), gradients.next().flatten(), gradients.next().flatten()))
    }
}
