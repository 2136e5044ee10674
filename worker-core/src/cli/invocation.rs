//! Whose command a command line is: the application's or ours.

use std::ffi::{OsStr, OsString};

/// A command line, sorted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Invocation {
    /// The application's command at `place` in its list.
    Own { place: usize, args: Vec<OsString> },
    /// One of ours, `--help` and `--version`, or a mistake.
    Ours(Vec<OsString>),
}

/// Flags that may stand before a command, and take a value.
const GLOBAL: [&str; 1] = ["--broker"];

/// Finds the command's name: the first argument that is neither a flag nor the value of a global one.
///
/// Where there is none, the command is `default`, the application's or one of ours. A word that is no command is
/// left to our parser, which knows what may have been meant.
pub(super) fn sort(name: &str, args: Vec<OsString>, own: &[&str], default: Option<&str>) -> Invocation {
    let place_of = |wanted: &str| own.iter().position(|name| *name == wanted);
    let mut index = 1;
    while let Some(arg) = args.get(index) {
        let Some(text) = arg.to_str() else {
            return Invocation::Ours(args);
        };
        if matches!(text, "-h" | "--help" | "-V" | "--version") {
            return Invocation::Ours(args);
        }
        if GLOBAL.contains(&text) {
            index += 2;
            continue;
        }
        if GLOBAL.iter().any(|flag| text.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='))) {
            index += 1;
            continue;
        }
        if text == "help"
            && let Some(wanted) = args.get(index + 1).and_then(|arg| arg.to_str())
            && let Some(place) = place_of(wanted)
        {
            return Invocation::Own { place, args: vec![format!("{name} {wanted}").into(), "--help".into()] };
        }
        if let Some(place) = place_of(text) {
            let first = OsString::from(format!("{name} {text}"));
            let others = args.iter().enumerate().skip(1).filter(|(other, _)| *other != index);
            return Invocation::Own { place, args: others_after(first, others.map(|(_, arg)| arg)) };
        }
        if text.starts_with('-') {
            break;
        }
        return Invocation::Ours(args);
    }
    match (default.and_then(place_of), default) {
        (Some(place), _) => Invocation::Own { place, args: others_after(name.into(), args.iter().skip(1)) },
        (None, Some(ours)) => {
            let mut args = args;
            args.insert(1.min(args.len()), ours.into());
            Invocation::Ours(args)
        }
        (None, None) => Invocation::Ours(args),
    }
}

/// The broker that a command line of the application's own names, if it does it as ours do.
pub(super) fn broker_of(args: &[OsString]) -> Option<&str> {
    let [flag] = GLOBAL;
    let mut texts = args.iter().map(|arg| arg.to_str());
    while let Some(arg) = texts.next() {
        match arg.and_then(|arg| arg.strip_prefix(flag)) {
            Some("") => return texts.next().flatten(),
            Some(rest) if rest.starts_with('=') => return rest.get(1..),
            _ => {}
        }
    }
    None
}

fn others_after<'a>(first: OsString, others: impl Iterator<Item = &'a OsString>) -> Vec<OsString> {
    std::iter::once(first).chain(others.map(|other: &OsString| OsStr::to_owned(other))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [&str; 2] = ["thumbnails", "serve"];

    fn sorted(line: &str) -> Invocation {
        sort("app", line.split(' ').map(Into::into).collect(), &OWN, Some("thumbnails"))
    }

    fn own(line: &str) -> (usize, String) {
        match sorted(line) {
            Invocation::Own { place, args } => (place, args.join(OsStr::new("|")).into_string().unwrap()),
            Invocation::Ours(_) => panic!("{line} is ours"),
        }
    }

    #[test]
    fn a_command_of_the_application_gets_all_but_its_name() {
        assert_eq!(own("./app serve --port 1"), (1, "app serve|--port|1".into()));
        assert_eq!(own("./app --broker sqlite:x.db serve -h"), (1, "app serve|--broker|sqlite:x.db|-h".into()));
        assert_eq!(own("./app help serve"), (1, "app serve|--help".into()));
    }

    #[test]
    fn without_a_command_the_default_one_runs_with_all_flags() {
        assert_eq!(own("./app"), (0, "app".into()));
        assert_eq!(own("./app --input DIR"), (0, "app|--input|DIR".into()));
        assert_eq!(own("./app --broker=memory:"), (0, "app|--broker=memory:".into()));
        assert_eq!(own("./app --broker memory: --input run"), (0, "app|--broker|memory:|--input|run".into()));
    }

    #[test]
    fn help_version_and_mistakes_stay_ours() {
        for line in ["./app --help", "./app -V", "./app queues", "./app --broker x queues", "./app quees", "./app help"]
        {
            assert!(matches!(sorted(line), Invocation::Ours(_)), "{line}");
        }
        let line = || vec!["./app".into(), "--input".into()];
        assert_eq!(sort("app", line(), &OWN, None), Invocation::Ours(line()));
    }

    #[test]
    fn the_broker_of_an_own_command_is_read_in_both_forms() {
        for (line, broker) in [
            ("./app serve --broker memory: x", Some("memory:")),
            ("./app --broker=sqlite:a=b serve", Some("sqlite:a=b")),
            ("./app serve --brokers x", None),
            ("./app serve --broker", None),
        ] {
            assert_eq!(broker_of(&line.split(' ').map(Into::into).collect::<Vec<_>>()), broker, "{line}");
        }
    }

    #[test]
    fn one_of_our_commands_can_be_the_default() {
        let args = sort("app", vec!["./app".into(), "--queues".into(), "a".into()], &OWN, Some("run"));
        assert_eq!(args, Invocation::Ours(["./app", "run", "--queues", "a"].map(Into::into).to_vec()));
        assert_eq!(sort("app", vec![], &OWN, Some("run")), Invocation::Ours(vec!["run".into()]));
    }
}
