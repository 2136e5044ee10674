//! Thumbnails: work for the processor, and so plain functions on the blocking pool.

use std::{
    fs,
    io::{self, Cursor, ErrorKind},
    path::{Path, PathBuf},
};

use image::{DynamicImage, ImageDecoder as _, ImageError, ImageFormat, ImageReader, Limits};
use worker_core::prelude::*;

/// The most pixels on one side of a picture: more than any camera has.
const SIDE_MAX: u32 = 30_000;

/// The largest file: it is read whole.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The most memory to decode one picture. A file of a few kilobytes can claim
/// to be gigabytes of pixels; this is refused before it is decoded.
const DECODED_BYTES_MAX: u64 = 512 << 20;

/// Writes a thumbnail of one picture, upright, at most `size` pixels wide and high.
///
/// Running it twice writes the same file twice, and never half a file.
#[job(queue = "images", max_retries = 2, backoff = "1s..30s", timeout = "1m", concurrency = 4)]
pub(crate) fn thumbnail(picture: PathBuf, output: PathBuf, size: u32) -> JobResult {
    let (decoded, format) = decode(&picture).map_err(|error| verdict(&picture, error))?;
    // A picture that is small already would only become blurred.
    let fits = decoded.width() <= size && decoded.height() <= size;
    let small = if fits { decoded } else { decoded.thumbnail(size, size) };
    write(&small, format, &output).map_err(|error| verdict(&output, error))
}

/// The picture as it should be seen: cameras store it as the sensor was held,
/// with a note (EXIF) on how to turn it.
fn decode(picture: &Path) -> Result<(DynamicImage, ImageFormat), ImageError> {
    let size = fs::metadata(picture)?.len();
    if size > FILE_BYTES_MAX {
        return Err(invalid(format!("it has {size} bytes, {FILE_BYTES_MAX} are the most")));
    }
    let bytes = fs::read(picture)?;
    // By content, since names lie.
    let format = image::guess_format(&bytes).map_err(|_| invalid("it is neither a JPEG nor a PNG"))?;
    if format == ImageFormat::Jpeg && is_cut_off(&bytes) {
        return Err(invalid("the JPEG is cut off"));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut decoded = DynamicImage::from_decoder(decoder)?;
    decoded.apply_orientation(orientation);
    Ok((decoded, format))
}

fn invalid(problem: impl Into<String>) -> ImageError {
    ImageError::IoError(io::Error::new(ErrorKind::InvalidData, problem.into()))
}

/// Whether a JPEG ends before its end. The decoder would make the missing part grey and say nothing.
///
/// Segments (ITU T.81, annex B) are walked up to the first scan; the end
/// marker must come after it. It cannot be part of the scan's data, where a
/// byte `FF` is always followed by `00` or a restart marker.
fn is_cut_off(jpeg: &[u8]) -> bool {
    const END: [u8; 2] = [0xFF, 0xD9];
    let mut at = 2;
    while let Some([0xFF, marker, high, low]) = jpeg.get(at..at + 4) {
        if *marker == 0xDA {
            return !jpeg[at..].windows(2).any(|pair| pair == END);
        }
        at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
    }
    true
}

/// Writes beside the target and renames, so that nobody ever sees half a file.
fn write(small: &DynamicImage, format: ImageFormat, output: &Path) -> Result<(), ImageError> {
    let folder = output.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".thumbnail-").tempfile_in(folder)?;
    match format {
        // JPEG knows neither transparency nor 16 bits.
        ImageFormat::Jpeg => DynamicImage::from(small.to_rgb8()).write_to(&mut file, format)?,
        format => small.write_to(&mut file, format)?,
    }
    file.persist(output).map_err(|error| ImageError::IoError(error.error))?;
    Ok(())
}

/// A broken picture stays broken; a full or absent disk may come back.
fn verdict(path: &Path, error: ImageError) -> JobError {
    let message = format!("{}: {error}", path.display());
    let hopeless = match &error {
        ImageError::IoError(error) => matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::IsADirectory
        ),
        _ => true,
    };
    if hopeless { JobError::discard(message) } else { JobError::from(io::Error::other(message)) }
}

#[cfg(test)]
mod tests {
    use image::GenericImageView as _;

    use super::*;

    fn shipped(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("pictures").join(name)
    }

    #[test]
    fn a_picture_that_was_stored_turned_comes_out_upright() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("deep/valley.jpg");
        thumbnail(shipped("morning-valley.jpg"), output.clone(), 120).unwrap();
        assert_eq!(image::open(output).unwrap().dimensions(), (120, 90), "stored 540 x 720, seen 720 x 540");
    }

    #[test]
    fn a_picture_that_is_small_already_keeps_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("valley.jpg");
        thumbnail(shipped("morning-valley.jpg"), output.clone(), 4096).unwrap();
        assert_eq!(image::open(output).unwrap().dimensions(), (720, 540));
    }

    #[test]
    fn transparency_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("flower.png");
        thumbnail(shipped("flower-transparent.png"), output.clone(), 64).unwrap();
        assert_eq!(image::open(output).unwrap().get_pixel(0, 0)[3], 0);
    }

    #[test]
    fn what_is_no_picture_is_discarded_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("notes.jpg");
        fs::write(&text, "not a picture").unwrap();
        let error = thumbnail(text, folder.path().join("out.jpg"), 64).unwrap_err().to_string();
        assert!(error.contains("notes.jpg: it is neither a JPEG nor a PNG; discard"), "{error}");
        assert!(!folder.path().join("out.jpg").exists());
    }

    #[test]
    fn a_picture_that_is_cut_off_is_discarded_and_not_half_grey() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("ripples.jpg", 20_000), ("stained-glass.png", 20_000), ("galaxy.jpg", 100)] {
            let torn = folder.path().join(name);
            fs::write(&torn, &fs::read(shipped(name)).unwrap()[..bytes]).unwrap();
            let error = thumbnail(torn, folder.path().join("out"), 64).unwrap_err().to_string();
            assert!(error.ends_with("; discard"), "{error}");
        }
    }

    #[test]
    fn a_picture_with_something_behind_its_end_is_whole() {
        let mut picture = fs::read(shipped("ripples.jpg")).unwrap();
        picture.extend(b"a short film, as some phones append it");
        assert!(!is_cut_off(&picture));
    }

    #[test]
    fn a_picture_bomb_is_refused_before_it_is_decoded() {
        // A PNG that claims 60,000 x 60,000 pixels in 33 bytes of header.
        let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        bomb.extend([60_000_u32.to_be_bytes(), 60_000_u32.to_be_bytes()].concat());
        bomb.extend([8, 6, 0, 0, 0]);
        bomb.extend(crc32(&bomb[12..]).to_be_bytes());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.png");
        fs::write(&path, bomb).unwrap();
        let error = thumbnail(path, folder.path().join("out.png"), 64).unwrap_err().to_string();
        assert!(error.contains("imit") && error.ends_with("; discard"), "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32, byte: &u8| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
        };
        !bytes.iter().fold(!0, step)
    }
}
