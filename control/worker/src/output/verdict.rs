//! Decides whether the outputs of a call may be published in a directory that is not empty.

use super::manifest::Call;
use super::survey::Survey;
use super::{OutputError, Planned};
use std::path::Path;

/// `shown`: the directory as given by the user.
///
/// # Errors
/// If files would be lost that the user has not agreed to lose.
pub(super) fn judge(
    shown: &Path,
    survey: &Survey,
    call: &Call,
    planned: &[Planned],
    overwrite: bool,
) -> Result<(), OutputError> {
    let path = || shown.to_owned();
    if overwrite {
        // No option permits removing a directory with unknown files.
        for folder in &survey.folders {
            let in_the_way = planned.iter().find(|output| {
                let place = Path::new(&output.name);
                if output.many { folder.parent() == Some(place) && is_part(folder) } else { folder == place }
            });
            if let Some(output) = in_the_way {
                return Err(OutputError::FolderInTheWay { output: output.name.clone(), path: shown.join(folder) });
            }
        }
        return Ok(());
    }
    if survey.old_release && survey.manifest.is_none() {
        return Err(OutputError::OlderRelease { path: path() });
    }
    if !survey.foreign.is_empty() {
        return Err(OutputError::Foreign { path: path(), files: survey.foreign.clone() });
    }
    if !survey.changed.is_empty() {
        return Err(OutputError::Changed { path: path(), files: survey.changed.clone() });
    }
    match survey.manifest.as_ref().and_then(|manifest| manifest.call.difference(call)) {
        Some(difference) => Err(OutputError::OtherCall { path: path(), difference }),
        None => Ok(()),
    }
}

/// Whether a file in a directory of parts has the name of a part.
fn is_part(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
}
