//! The digits: images and labels, split into a training part and a test part.
//!
//! It knows nothing of networks. Invariant: the split and the order of each epoch depend on seeds alone, so that every rank
//! finds the same global batch without asking, and takes its own share of it.

use std::ops::Range;

use crate::rng::Rng;

/// Pixels of an image.
pub const PIXELS: usize = 64;
/// Number of classes: the digits 0 to 9.
pub const CLASSES: usize = 10;
/// Images in the training part: sixteen batches of 96. The other 261 are the test part.
pub const TRAINING: usize = 1536;

/// Images, 64 pixels and a label each; `data/README.md` says whose they are.
static IMAGES: &[u8] = include_bytes!("../data/digits.bin");
/// Seed of the split, fixed so that test accuracies of different runs compare.
const SPLIT_SEED: u64 = 1998;

/// A set of images with their labels.
#[derive(Default)]
pub struct Images {
    /// 64 pixels per image, each from 0 (paper) to 1 (ink).
    pub pixels: Vec<f32>,
    /// The digit each image shows.
    pub labels: Vec<u8>,
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Fills `batch` with the images that `chosen` numbers, in that order.
    pub fn gather(&self, chosen: &[usize], batch: &mut Images) {
        batch.pixels.clear();
        batch.labels.clear();
        for &i in chosen {
            batch
                .pixels
                .extend_from_slice(&self.pixels[i * PIXELS..][..PIXELS]);
            batch.labels.push(self.labels[i]);
        }
    }
}

/// The training part and the test part.
pub fn load() -> (Images, Images) {
    let mut all = Images::default();
    for image in IMAGES.chunks_exact(PIXELS + 1) {
        all.pixels
            .extend(image[..PIXELS].iter().map(|&ink| f32::from(ink) / 16.0));
        all.labels.push(image[PIXELS]);
    }
    let mut order: Vec<usize> = (0..all.len()).collect();
    Rng::new(SPLIT_SEED).shuffle(&mut order);
    let (mut training, mut test) = (Images::default(), Images::default());
    all.gather(&order[..TRAINING], &mut training);
    all.gather(&order[TRAINING..], &mut test);
    (training, test)
}

/// The part of a global batch of `batch` images that `rank` of `size` ranks computes: parts are contiguous, cover the batch
/// without overlap and differ by one image at most. With more ranks than images some parts are empty.
pub fn share(batch: usize, rank: usize, size: usize) -> Range<usize> {
    rank * batch / size..(rank + 1) * batch / size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_in_one_part_and_reads_as_published() {
        assert_eq!(IMAGES.len(), 1797 * (PIXELS + 1));
        let (training, test) = load();
        assert_eq!((training.len(), test.len()), (1536, 261));
        let mut of_class = [0; CLASSES];
        for &label in training.labels.iter().chain(&test.labels) {
            of_class[usize::from(label)] += 1;
        }
        // The counts that UCI states for this part.
        assert_eq!(of_class, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        let pixels = || training.pixels.iter().chain(&test.pixels);
        assert!(pixels().all(|ink| (0.0..=1.0).contains(ink)));
        assert_eq!(pixels().count(), 1797 * PIXELS);
    }

    #[test]
    fn both_parts_hold_every_digit_in_about_its_share() {
        let (training, test) = load();
        for digit in 0..CLASSES as u8 {
            let count = |images: &Images| {
                images
                    .labels
                    .iter()
                    .filter(|&&label| label == digit)
                    .count()
            };
            assert!(
                (130..175).contains(&count(&training)),
                "digit {digit}: {} for training",
                count(&training)
            );
            assert!(
                (14..42).contains(&count(&test)),
                "digit {digit}: {} for testing",
                count(&test)
            );
        }
    }

    #[test]
    fn gathering_takes_image_and_label_together() {
        let (training, _) = load();
        let mut batch = Images::default();
        training.gather(&[7, 1535, 0], &mut batch);
        training.gather(&[1535, 3], &mut batch);
        assert_eq!(batch.labels, [training.labels[1535], training.labels[3]]);
        assert_eq!(batch.pixels[..PIXELS], training.pixels[1535 * PIXELS..]);
        assert_eq!(
            batch.pixels[PIXELS..],
            training.pixels[3 * PIXELS..4 * PIXELS]
        );
    }

    #[test]
    fn shares_cover_the_batch_and_are_even() {
        for batch in [1, 8, 95, 96] {
            for size in 1..=100 {
                let mut end = 0;
                for rank in 0..size {
                    let share = share(batch, rank, size);
                    assert_eq!(share.start, end);
                    assert!(share.len() == batch / size || share.len() == batch.div_ceil(size));
                    end = share.end;
                }
                assert_eq!(end, batch);
            }
        }
    }
}
