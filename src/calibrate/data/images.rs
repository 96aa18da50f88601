//! A directory of images as samples of a network with one input.
//!
//! Pixels become (v / 255 − mean) / std per channel, as torchvision does. An image is scaled to the network's size; with
//! `resize`, its shorter side is scaled to that first and the middle is cut out, which is what most training pipelines
//! call *resize and centre crop*.

use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, GenericImageView};

use super::batch::Batch;
use super::rows::Rows;
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::inputs::{DeclaredInput, Dim};
use crate::runtime::{Tensor, elements_as};
use crate::{Error, Result};

/// Longest side that an image is scaled to, where no more is needed.
const LONGEST: u32 = 1 << 15;

/// Order of the axes of an image input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// `[samples, channels, height, width]`
    #[default]
    Nchw,
    /// `[samples, height, width, channels]`
    Nhwc,
}

/// Options for converting images to tensors.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImageOptions {
    /// Mean to subtract from each channel, where full brightness is 1: one number per channel, one for all, or none for
    /// 0.
    pub mean: Vec<f32>,
    /// Standard deviation to divide each channel by: one number per channel, one for all, or none for 1.
    pub std: Vec<f32>,
    /// Length to resize the shorter side to before the center crop, in pixels.
    pub resize: Option<u32>,
    /// Height and width, if the model's input does not fix them.
    pub size: Option<(u32, u32)>,
    /// Order of the axes.
    pub layout: Layout,
}

/// The images of a directory, in order of their names.
#[derive(Debug)]
pub(super) struct Images {
    files: Vec<PathBuf>,
    input: DeclaredInput,
    channels: usize,
    height: u32,
    width: u32,
    mean: Vec<f32>,
    std: Vec<f32>,
    resize: Option<u32>,
    layout: Layout,
}

/// Whether `path` has the extension of an image that can be read.
pub(super) fn is_image(path: &Path) -> bool {
    matches!(super::archive::extension(path).as_str(), "png" | "jpg" | "jpeg" | "bmp")
}

pub(super) fn open(path: &Path, inputs: &[DeclaredInput], options: &ImageOptions) -> Result<Images> {
    let [input] = inputs else {
        return Err(Error::usage(format!("`images` feeds a model with one input, this one has {}", inputs.len())));
    };
    let entries = std::fs::read_dir(path).map_err(|e| Error::input(format!("cannot be read: {e}")))?;
    let entries = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut files: Vec<PathBuf> = entries.filter(|file| is_image(file)).collect();
    files.sort();
    if files.is_empty() {
        return Err(Error::input("has no images (.png, .jpg, .bmp) inside"));
    }
    check_element(input, options)?;
    let (channels, height, width) = geometry(input, options)?;
    let mean = per_channel("`mean`", &options.mean, channels, 0.0)?;
    let std = per_channel("`std`", &options.std, channels, 1.0)?;
    if std.iter().any(|&std| std <= 0.0 || !std.is_finite()) {
        return Err(Error::usage("`std` must be positive"));
    }
    let (input, resize, layout) = (input.clone(), options.resize, options.layout);
    Ok(Images { files, input, channels, height, width, mean, std, resize, layout })
}

/// Refuses an input that is neither floats nor bytes, and a normalization of bytes.
fn check_element(input: &DeclaredInput, options: &ImageOptions) -> Result<()> {
    let is_plain = options.mean.is_empty() && options.std.is_empty();
    match input.element {
        DataType::Float | DataType::Float16 | DataType::Double | DataType::Bfloat16 => Ok(()),
        DataType::Uint8 if is_plain => Ok(()),
        DataType::Uint8 => Err(Error::usage(format!("'{}' takes bytes: omit `mean` and `std`", input.name))),
        other => Err(Error::usage(format!("images cannot feed '{}' of type {other:?}", input.name))),
    }
}

/// Channels, height and width of the images that `input` takes.
fn geometry(input: &DeclaredInput, options: &ImageOptions) -> Result<(usize, u32, u32)> {
    let dims = input.dims.as_deref().unwrap_or_default();
    let (([_, channels, height, width], Layout::Nchw) | ([_, height, width, channels], Layout::Nhwc)) =
        (dims, options.layout)
    else {
        let message = format!("`images` feeds inputs of rank 4, '{}' has rank {}", input.name, dims.len());
        return Err(Error::usage(message));
    };
    let channels = match channels {
        Dim::Fixed(channels @ (1 | 3)) => *channels,
        Dim::Symbol(_) | Dim::Unknown => 3,
        Dim::Fixed(other) => {
            let message = format!("images have 1 or 3 channels, '{}' has {other}; see `layout`", input.name);
            return Err(Error::usage(message));
        }
    };
    let side = |dim: &Dim, given: Option<u32>| match dim {
        Dim::Fixed(size) => u32::try_from(*size).ok(),
        Dim::Symbol(_) | Dim::Unknown => given.or(options.resize),
    };
    let height = side(height, options.size.map(|(height, _)| height)).filter(|&side| side > 0);
    let width = side(width, options.size.map(|(_, width)| width)).filter(|&side| side > 0);
    match (height, width) {
        (Some(height), Some(width)) => Ok((channels, height, width)),
        _ => Err(Error::usage("the model leaves the size of images open; pass `resize`")),
    }
}

fn per_channel(option: &str, given: &[f32], channels: usize, default: f32) -> Result<Vec<f32>> {
    match given {
        [] => Ok(vec![default; channels]),
        [one] => Ok(vec![*one; channels]),
        each if each.len() == channels => Ok(each.to_vec()),
        each => Err(Error::usage(format!(
            "{option} has {} numbers, the model's images have {channels} channels",
            each.len()
        ))),
    }
}

impl Images {
    fn load(&self, path: &Path) -> Result<Vec<f32>> {
        let image =
            image::open(path).map_err(|e| Error::input(format!("cannot be read as an image: {e}")).in_file(path))?;
        let image = self.fit(&image);
        let takes_pixels = self.input.element == DataType::Uint8;
        let normal = |channel: usize, byte: u8| {
            if takes_pixels {
                f32::from(byte)
            } else {
                (f32::from(byte) / 255.0 - self.mean[channel]) / self.std[channel]
            }
        };
        let interleaved = if self.channels == 1 { image.to_luma8().into_raw() } else { image.to_rgb8().into_raw() };
        Ok(match self.layout {
            Layout::Nhwc => interleaved.iter().enumerate().map(|(i, &byte)| normal(i % self.channels, byte)).collect(),
            Layout::Nchw => {
                let plane = |channel| {
                    interleaved.iter().skip(channel).step_by(self.channels).map(move |&byte| normal(channel, byte))
                };
                (0..self.channels).flat_map(plane).collect()
            }
        })
    }

    /// `image` at the size of the network.
    fn fit(&self, image: &DynamicImage) -> DynamicImage {
        let Some(short) = self.resize else {
            return image.resize_exact(self.width, self.height, FilterType::Triangle);
        };
        let (width, height) = image.dimensions();
        let least = u64::from(width.min(height)).max(1);
        let scaled = |side: u32, at_least: u32| {
            let side = (u64::from(side) * u64::from(short) + least / 2) / least;
            u32::try_from(side).unwrap_or(u32::MAX).min(LONGEST).max(at_least)
        };
        let (width, height) = (scaled(width, self.width), scaled(height, self.height));
        let image = image.resize_exact(width, height, FilterType::Triangle);
        image.crop_imm((width - self.width) / 2, (height - self.height) / 2, self.width, self.height)
    }
}

impl Rows for Images {
    fn count(&self) -> usize {
        self.files.len()
    }

    fn read(&self, start: usize, end: usize) -> Result<Batch> {
        let files = self.files.get(start..end).unwrap_or_default();
        let pixels: Vec<Vec<f32>> = files.iter().map(|file| self.load(file)).collect::<Result<_>>()?;
        let (height, width) = (self.height as usize, self.width as usize);
        let shape = match self.layout {
            Layout::Nchw => [files.len(), self.channels, height, width],
            Layout::Nhwc => [files.len(), height, width, self.channels],
        };
        let tensor = elements_as(self.input.element, &Tensor::new(&shape, &pixels.concat())?)?;
        Ok(Batch::of_rows(vec![(self.input.name.clone(), tensor)], None))
    }
}
