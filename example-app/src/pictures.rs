//! Which files of a folder are pictures, by name; what is in them the job finds out.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Folders within folders that are followed.
const DEPTH_MAX: usize = 32;

/// What a folder has.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Pictures, relative to the folder, by name.
    pub(crate) pictures: Vec<PathBuf>,
    /// Files that are none, by name.
    pub(crate) skipped: usize,
}

/// Finds the pictures in `folder` and the folders within, but not in `except`.
pub(crate) fn find(folder: &Path, except: &Path) -> io::Result<Found> {
    let except = fs::canonicalize(except).ok();
    let mut found = Found::default();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((inside, depth)) = folders.pop() {
        for entry in fs::read_dir(&inside)? {
            let path = entry?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden || (except.is_some() && fs::canonicalize(&path).ok() == except) {
                continue;
            }
            // A link to a folder is not followed: it could lead in a circle.
            if path.is_dir() && !path.is_symlink() && depth < DEPTH_MAX {
                folders.push((path, depth + 1));
            } else if path.is_file() && is_picture(&path) {
                found.pictures.push(path.strip_prefix(folder).unwrap_or(&path).to_owned());
            } else if path.is_file() {
                found.skipped += 1;
            }
        }
    }
    found.pictures.sort();
    Ok(found)
}

/// Whether a file is called like a picture.
pub(crate) fn is_picture(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_found_in_folders_within_but_not_among_the_thumbnails() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["b.JPG", "a/c.png", "thumbnails/b.JPG", "notes.txt", ".hidden.jpg"] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = find(folder.path(), &folder.path().join("thumbnails")).unwrap();
        assert_eq!(found.pictures, [Path::new("a/c.png"), Path::new("b.JPG")]);
        assert_eq!(found.skipped, 1);
    }
}
