//! Pieces of HTML. Every text that comes from a file goes through [`escape`].

use std::fmt::Write as _;

/// `text` as it stands in HTML, in an attribute as well as between tags.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Characters that no HTML document may hold.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A section with a heading; empty without content.
pub(super) fn section(heading: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    format!("<section>\n<h2>{}</h2>\n{content}</section>\n", escape(heading))
}

/// Collapsed content, which the reader can open; empty without content.
pub(super) fn folded(summary: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    format!("<details>\n<summary>{}</summary>\n{content}</details>\n", escape(summary))
}

/// A paragraph.
pub(super) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// A list of texts; empty without any.
pub(super) fn list(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("<li>{}</li>", escape(&item))).collect();
    if items.is_empty() { String::new() } else { format!("<ul>\n{}\n</ul>\n", items.join("\n")) }
}

/// A column of a table.
pub(super) enum Column {
    /// Text, which may be long.
    Text(&'static str),
    /// Figures, aligned on the right.
    Figure(&'static str),
}

/// A cell of a table.
pub(super) enum Cell {
    /// Text that is escaped.
    Text(String),
    /// HTML that was made here.
    Made(String),
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A table that scrolls sideways on a narrow screen; empty without rows. The first cell of a row names the row.
pub(super) fn table(caption: &str, columns: &[Column], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let (mut head, mut body) = (String::new(), String::new());
    for column in columns {
        let (class, name) = match column {
            Column::Text(name) => ("", name),
            Column::Figure(name) => (" class=\"n\"", name),
        };
        let _ = write!(head, "<th scope=\"col\"{class}>{}</th>", escape(name));
    }
    for row in rows {
        body += "<tr>";
        for (index, (cell, column)) in row.into_iter().zip(columns).enumerate() {
            let class = if matches!(column, Column::Figure(_)) { " class=\"n\"" } else { "" };
            let content = match cell {
                Cell::Text(text) => escape(&text),
                Cell::Made(html) => html,
            };
            let (tag, scope) = if index == 0 { ("th", " scope=\"row\"") } else { ("td", "") };
            let _ = write!(body, "<{tag}{scope}{class}>{content}</{tag}>");
        }
        body += "</tr>\n";
    }
    if body.is_empty() {
        return body;
    }
    let caption = escape(caption);
    format!(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table>\n<caption>{caption}</caption>\n\
         <thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )
}

/// Rows of the longest table that stands open. Browsers lay out a longer one only when it is unfolded.
const OPEN: usize = 100;

/// A [`table`] that is folded away if it is long.
pub(super) fn short_table(caption: &str, columns: &[Column], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let (count, content) = (rows.len(), table(caption, columns, rows));
    if count > OPEN { folded(&format!("{caption}: {count} rows"), &content) } else { content }
}

/// A time on the page.
pub(super) fn ms(time: f64) -> String {
    format!("{time:.3} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_tables_are_folded_away() {
        let rows = |count: usize| short_table("x", &[Column::Text("y")], (0..count).map(|_| vec!["z".into()]));
        assert!(rows(OPEN).starts_with("<div"));
        assert!(rows(OPEN + 1).starts_with("<details>\n<summary>x: 101 rows</summary>"));
        assert_eq!(rows(0), "");
    }

    #[test]
    fn texts_of_a_file_cannot_become_tags() {
        assert_eq!(escape("<a b='c' d=\"e\">&\u{7}"), "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;\u{fffd}");
        let table = table("<i>", &[Column::Text("x"), Column::Figure("y")], [vec!["<b>".into(), "1".into()]]);
        assert!(!table.contains("<b>") && !table.contains("<i>") && table.contains("&lt;b&gt;"), "{table}");
    }

    #[test]
    fn nothing_is_shown_where_there_is_nothing() {
        assert_eq!(section("x", "") + &folded("x", "") + &list([]) + &table("x", &[], []), "");
    }
}
