//! A body that borrows from its arguments and keeps the borrows across awaits.

use worker_core::{JobResult, State, job};

async fn nap() {
    tokio::task::yield_now().await;
}

async fn first_word(text: &str) -> &str {
    nap().await;
    text.split(' ').next().unwrap_or_default()
}

#[job]
async fn ui_borrows(text: String, words: Vec<String>, state: State<String>) -> JobResult<usize> {
    let first = first_word(&text).await;
    let other: &str = &state;
    nap().await;
    let mut count = usize::from(words.iter().any(|word| word == first));
    for word in &words {
        nap().await;
        count += usize::from(word == other);
    }
    Ok(count)
}

#[tokio::test]
async fn it_runs() {
    let words = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(ui_borrows("a b".into(), words, State::new("b".into())).await.ok(), Some(2));
}
