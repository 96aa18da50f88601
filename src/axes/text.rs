//! Rows of the rule table as text: read and written.

use std::fmt;

use super::notation::{Axis, Mark, NotationError, Operand, Row, Term};

impl Row {
    /// Parses a row.
    ///
    /// # Errors
    /// [`NotationError::Syntax`] with the text that could not be read.
    pub fn parse(text: &str) -> Result<Self, NotationError> {
        let (inputs, outputs) = text.split_once("->").ok_or_else(|| NotationError::Syntax(text.to_owned()))?;
        Ok(Self { inputs: parse_operands(inputs)?, outputs: parse_operands(outputs)? })
    }
}

fn parse_operands(text: &str) -> Result<Vec<Operand>, NotationError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|operand| parse_operand(operand.trim())).collect()
}

fn parse_operand(text: &str) -> Result<Operand, NotationError> {
    let (body, optional) = match text.strip_suffix('?') {
        Some(body) => (body, true),
        None => (text, false),
    };
    let mut chars = body.chars().peekable();
    let mut axes = Vec::new();
    while skip_spaces(&mut chars) {
        let term = parse_term(&mut chars, text)?;
        let mut rest = false;
        if chars.peek() == Some(&'.') {
            chars.next();
            rest = chars.next() == Some('.');
            if !rest {
                return Err(NotationError::Syntax(text.to_owned()));
            }
        }
        axes.push(Axis { term, mark: parse_mark(&mut chars), rest });
    }
    Ok(Operand { axes, optional })
}

type Chars<'t> = std::iter::Peekable<std::str::Chars<'t>>;

fn skip_spaces(chars: &mut Chars<'_>) -> bool {
    while chars.next_if(|c| c.is_whitespace()).is_some() {}
    chars.peek().is_some()
}

fn parse_mark(chars: &mut Chars<'_>) -> Mark {
    let mark = match chars.peek() {
        Some('#') => Mark::Freeze,
        Some('!') => Mark::Shift,
        Some('*') => Mark::Sum,
        _ => return Mark::None,
    };
    chars.next();
    mark
}

fn parse_term(chars: &mut Chars<'_>, text: &str) -> Result<Term, NotationError> {
    let fail = || NotationError::Syntax(text.to_owned());
    match chars.peek() {
        Some('_') => {
            chars.next();
            Ok(Term::Anonymous)
        }
        Some('(') => {
            chars.next();
            parse_group(chars, text)
        }
        Some(c) if c.is_ascii_alphabetic() => {
            let mut name = String::new();
            while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric()) {
                name.push(c);
            }
            Ok(Term::Name(name))
        }
        _ => Err(fail()),
    }
}

/// The inside of a parenthesis, up to and including the closing one.
fn parse_group(chars: &mut Chars<'_>, text: &str) -> Result<Term, NotationError> {
    let mut parts = Vec::new();
    let mut sum = false;
    loop {
        if !skip_spaces(chars) {
            return Err(NotationError::Syntax(text.to_owned()));
        }
        if chars.next_if_eq(&')').is_some() {
            break;
        }
        if chars.next_if_eq(&'+').is_some() {
            sum = true;
            continue;
        }
        let term = parse_term(chars, text)?;
        parts.push((term, parse_mark(chars)));
    }
    match (parts.len(), sum) {
        (0 | 1, _) => Err(NotationError::Syntax(text.to_owned())),
        (_, true) => Ok(Term::Sum(parts)),
        (_, false) => Ok(Term::Product(parts)),
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_operands(f, &self.inputs)?;
        f.write_str(" -> ")?;
        write_operands(f, &self.outputs)
    }
}

fn write_operands(f: &mut fmt::Formatter<'_>, operands: &[Operand]) -> fmt::Result {
    for (i, operand) in operands.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        for (k, axis) in operand.axes.iter().enumerate() {
            let space = if k > 0 { " " } else { "" };
            let rest = if axis.rest { ".." } else { "" };
            write!(f, "{space}{}{rest}{}", axis.term, axis.mark)?;
        }
        if operand.optional {
            f.write_str("?")?;
        }
    }
    Ok(())
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parts, by) = match self {
            Term::Anonymous => return f.write_str("_"),
            Term::Name(name) => return f.write_str(name),
            Term::Product(parts) => (parts, " "),
            Term::Sum(parts) => (parts, " + "),
        };
        f.write_str("(")?;
        for (i, (part, mark)) in parts.iter().enumerate() {
            write!(f, "{}{part}{mark}", if i > 0 { by } else { "" })?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mark::None => "",
            Mark::Freeze => "#",
            Mark::Shift => "!",
            Mark::Sum => "*",
        })
    }
}
