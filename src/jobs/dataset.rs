//! Samples as a caller gives them: not opened yet, and not checked against a model.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::NpzWriter;
use tempfile::TempDir;

use crate::calibrate::data::images::ImageOptions;
use crate::calibrate::data::{BatchAxes, Dataset as Samples};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::runtime::inputs::DimSizes;

/// Samples for calibrating, training and evaluating a model.
///
/// A data set is read and checked against the model when a job starts: the arrays must have the names, shapes and types
/// of the graph's inputs. Samples lie along axis 0, or along the batch axis that the inputs share. If the model has no
/// batch axis, each sample is one run of the model: an array then has one more axis, in front, or each file holds one
/// run. An array called `labels` holds the correct answer for each sample: integers are classes, real numbers are
/// target outputs.
#[derive(Debug, Clone)]
pub struct Dataset(Source);

#[derive(Debug, Clone)]
enum Source {
    Path(PathBuf),
    Images(PathBuf, ImageOptions),
    Synthetic(usize),
    /// Files that were written from arrays in memory; they are deleted with the last clone.
    Written(Arc<TempDir>),
}

impl Dataset {
    /// Samples from `path`: an `.npz`, an `.npy` for a model with one input, a directory of either, or a directory of
    /// ONNX test data.
    pub fn from_path(path: impl Into<PathBuf>) -> Self {
        Self(Source::Path(path.into()))
    }

    /// Samples from the images in the directory `path`, for a model with one input.
    pub fn from_images(path: impl Into<PathBuf>, options: ImageOptions) -> Self {
        Self(Source::Images(path.into(), options))
    }

    /// Synthetic samples: random values that fit the graph's inputs.
    pub fn synthetic(samples: usize) -> Self {
        Self(Source::Synthetic(samples))
    }

    /// Samples from arrays in memory: one array for each input of the graph, by name.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if the temporary file that holds them cannot be written.
    pub fn from_arrays<N: Into<String>>(arrays: impl IntoIterator<Item = (N, Array)>) -> Result<Self> {
        Self::from_batches([arrays])
    }

    /// Samples from an iterator of batches, each as in [`from_arrays`](Self::from_arrays). The sizes of dynamic axes
    /// may differ between batches. Each batch is written to a temporary directory as it arrives, so that memory holds
    /// only one.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if that directory cannot be written.
    pub fn from_batches<N, B>(batches: impl IntoIterator<Item = B>) -> Result<Self>
    where
        N: Into<String>,
        B: IntoIterator<Item = (N, Array)>,
    {
        let folder = tempfile::tempdir().map_err(|e| Error::output(format!("a temporary folder: {e}")))?;
        for (number, batch) in batches.into_iter().enumerate() {
            // Batches are read in the order of their names.
            let path = folder.path().join(format!("batch-{number:09}.npz"));
            write_batch(&path, batch.into_iter().map(|(name, array)| (name.into(), array)))?;
        }
        Ok(Self(Source::Written(Arc::new(folder))))
    }

    /// Opens the samples for `model`.
    pub(crate) fn open(&self, model: &Model, sizes: &DimSizes, axes: &BatchAxes, seed: u64) -> Result<Samples> {
        let graph = model.proto.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
        match &self.0 {
            Source::Path(path) => Samples::open_along(path, graph, axes),
            Source::Images(path, options) => Samples::images(path, graph, options),
            Source::Synthetic(samples) => Samples::synthetic(graph, sizes, *samples, seed),
            Source::Written(folder) => Ok(Samples::open_along(folder.path(), graph, axes)?.keeping(folder)),
        }
    }
}

impl<P: Into<PathBuf>> From<P> for Dataset {
    fn from(path: P) -> Self {
        Self::from_path(path)
    }
}

/// A dense array in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    values: Values,
}

impl Array {
    /// Creates an array of this shape from a `Vec` of numbers.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if the number of values differs from the number of elements in the shape.
    pub fn new(shape: &[usize], values: impl Into<Values>) -> Result<Self> {
        let values = values.into();
        let elements = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        if elements != Some(values.len()) {
            return Err(Error::usage(format!("an array of shape {shape:?} cannot hold {} values", values.len())));
        }
        Ok(Self { shape: shape.to_vec(), values })
    }
}

/// The values of an [`Array`], converted from a `Vec` of one of these types. They are converted to the type of the
/// graph's input when they are read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)] // a type is its own description
pub enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
}

macro_rules! values {
    ($($variant:ident $element:ty),*) => {
        $(impl From<Vec<$element>> for Values {
            fn from(values: Vec<$element>) -> Self {
                Self::$variant(values)
            }
        })*

        impl Values {
            fn len(&self) -> usize {
                match self {
                    $(Self::$variant(values) => values.len(),)*
                }
            }
        }

        fn write(archive: &mut NpzWriter<File>, name: &str, array: Array) -> Result<(), String> {
            let shape = IxDyn(&array.shape);
            match array.values {
                $(Values::$variant(values) => {
                    let array = ArrayD::from_shape_vec(shape, values).map_err(|e| e.to_string())?;
                    archive.add_array(name, &array).map_err(|e| e.to_string())
                })*
            }
        }
    };
}

values!(F32 f32, F64 f64, I8 i8, U8 u8, I32 i32, I64 i64, Bool bool);

fn write_batch(path: &Path, batch: impl Iterator<Item = (String, Array)>) -> Result<()> {
    let fail = |e: String| Error::output(e).in_file(path);
    let mut archive = NpzWriter::new(File::create(path).map_err(|e| fail(e.to_string()))?);
    for (name, array) in batch {
        write(&mut archive, &name, array).map_err(fail)?;
    }
    archive.finish().map(drop).map_err(|e| fail(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sample_models::mlp;

    fn batch(rows: usize) -> Vec<(&'static str, Array)> {
        let values: Vec<f32> = (0..3 * rows).map(|i| i as f32).collect();
        let labels: Vec<i64> = (0..rows).map(|i| (i % 2) as i64).collect();
        vec![("x", Array::new(&[rows, 3], values).unwrap()), ("labels", Array::new(&[rows], labels).unwrap())]
    }

    #[test]
    fn arrays_and_batches_are_read_like_files() {
        let model = Model::from_proto(mlp());
        let open = |data: Dataset| data.open(&model, &DimSizes::default(), &BatchAxes::default(), 0).unwrap();
        let whole = open(Dataset::from_arrays(batch(5)).unwrap());
        assert_eq!((whole.samples(), whole.has_labels()), (5, true));
        let parts = Dataset::from_batches((0..12).map(|_| batch(2))).unwrap();
        let parts = open(parts);
        assert_eq!(parts.samples(), 24);
        let first = parts.batches(2).next().unwrap().unwrap();
        assert_eq!(first.inputs[0].1.to_vec::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn an_array_has_as_many_values_as_its_shape_says() {
        assert!(Array::new(&[2, 3], vec![0_f32; 5]).unwrap_err().to_string().contains("cannot hold 5 values"));
        assert!(Array::new(&[usize::MAX, 2], vec![0_u8]).is_err());
    }
}
