//! Compares names case-insensitively, as Windows does, with the system's own table, which covers more
//! than ASCII.
#![allow(unsafe_code)]

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::windows::ffi::OsStrExt;

use windows_sys::Win32::Globalization::{
    CSTR_EQUAL, CSTR_GREATER_THAN, CSTR_LESS_THAN, CompareStringOrdinal,
};

/// Variables that every child inherits unless they are removed by name. Without them, some system
/// libraries, such as the one for sockets, are not found.
pub(crate) const ALWAYS: [&str; 1] = ["SystemRoot"];

pub(crate) fn is_same(one: &OsStr, other: &OsStr) -> bool {
    compare(one, other) == Ordering::Equal
}

/// Compares two names as Windows compares the names of environment variables.
pub(crate) fn compare(one: &OsStr, other: &OsStr) -> Ordering {
    let [one, other] = [one, other].map(|it| it.encode_wide().collect::<Vec<u16>>());
    let length = |text: &[u16]| i32::try_from(text.len()).unwrap_or(i32::MAX);
    // SAFETY: both texts are at least as long as the given lengths.
    let compared = unsafe {
        CompareStringOrdinal(one.as_ptr(), length(&one), other.as_ptr(), length(&other), 1)
    };
    match compared {
        CSTR_LESS_THAN => Ordering::Less,
        CSTR_EQUAL => Ordering::Equal,
        CSTR_GREATER_THAN => Ordering::Greater,
        // The call cannot fail for valid text.
        _ => one.cmp(&other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Environment;

    #[test]
    fn system_root_is_inherited_unless_it_is_removed() {
        let resolved = |env: Environment| {
            let ours = ["SYSTEMROOT", "TOKEN"].map(|name| (name.into(), "x".into()));
            env.resolve(ours).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(resolved(Environment::empty()), ["SYSTEMROOT"]);
        assert_eq!(resolved(Environment::only(["nothing"])), ["SYSTEMROOT"]);
        assert!(resolved(Environment::empty().without("SystemRoot")).is_empty());
    }

    #[test]
    fn names_compare_case_insensitively_beyond_ascii() {
        let compared = |one: &str, other: &str| compare(one.as_ref(), other.as_ref());
        assert_eq!(compared("Path", "PATH"), Ordering::Equal);
        assert_eq!(compared("é", "É"), Ordering::Equal);
        assert_eq!(compared("ж", "Ж"), Ordering::Equal);
        assert_eq!(compared("a", "B"), Ordering::Less);
        assert_eq!(compared("a_", "AB"), Ordering::Greater, "compared in upper case");
        assert_eq!(compared("", "a"), Ordering::Less);
    }
}
