//! Names that differ in upper and lower case alone are the same, as the system sees them: by its own
//! table, which knows more than ASCII.
#![allow(unsafe_code)]

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::windows::ffi::OsStrExt;

use windows_sys::Win32::Globalization::{
    CSTR_EQUAL, CSTR_GREATER_THAN, CSTR_LESS_THAN, CompareStringOrdinal,
};

/// What every program is given, unless it is removed by name: without it libraries of the system's, such
/// as that of sockets, are not found.
pub(crate) const ALWAYS: [&str; 1] = ["SystemRoot"];

pub(crate) fn is_same(one: &OsStr, other: &OsStr) -> bool {
    compare(one, other) == Ordering::Equal
}

/// As the system compares environment variables' names.
pub(crate) fn compare(one: &OsStr, other: &OsStr) -> Ordering {
    let [one, other] = [one, other].map(|it| it.encode_wide().collect::<Vec<u16>>());
    let length = |text: &[u16]| i32::try_from(text.len()).unwrap_or(i32::MAX);
    // SAFETY: both texts are as long as is said, or longer.
    let compared = unsafe {
        CompareStringOrdinal(one.as_ptr(), length(&one), other.as_ptr(), length(&other), 1)
    };
    match compared {
        CSTR_LESS_THAN => Ordering::Less,
        CSTR_EQUAL => Ordering::Equal,
        CSTR_GREATER_THAN => Ordering::Greater,
        // It does not fail for what is a text.
        _ => one.cmp(&other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Environment;

    #[test]
    fn programs_are_given_the_systems_directory_unless_it_is_removed() {
        let resolved = |env: Environment| {
            let ours = ["SYSTEMROOT", "TOKEN"].map(|name| (name.into(), "x".into()));
            env.resolve(ours).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(resolved(Environment::empty()), ["SYSTEMROOT"]);
        assert_eq!(resolved(Environment::only(["nothing"])), ["SYSTEMROOT"]);
        assert!(resolved(Environment::empty().without("SystemRoot")).is_empty());
    }

    #[test]
    fn case_makes_no_difference_beyond_ascii() {
        let compared = |one: &str, other: &str| compare(one.as_ref(), other.as_ref());
        assert_eq!(compared("Path", "PATH"), Ordering::Equal);
        assert_eq!(compared("é", "É"), Ordering::Equal);
        assert_eq!(compared("ж", "Ж"), Ordering::Equal);
        assert_eq!(compared("a", "B"), Ordering::Less);
        assert_eq!(compared("a_", "AB"), Ordering::Greater, "as upper case");
        assert_eq!(compared("", "a"), Ordering::Less);
    }
}
