//! What chain, group and chord become.

use std::error::Error;

use worker_core::prelude::*;

use self::tests::Books;

/// chain(read.s(book), count.s()): each step enqueues the next.
#[job(queue = "books")]
async fn read(book: u32, books: State<Books>, client: State<Client>, cx: Context) -> JobResult {
    let text = books.text(book).await?;
    // The same id when this is tried again: whoever runs it can tell.
    client.enqueue(count::new(book, text).id(format!("{}-count", cx.id()).parse()?)).await?;
    Ok(())
}

#[job(queue = "books")]
async fn count(book: u32, text: String, books: State<Books>) -> JobResult {
    books.put(book, text.split_whitespace().count()).await?;
    Ok(())
}

/// group(read.s(book) for book in shelf).
async fn read_all(client: &Client, shelf: impl IntoIterator<Item = u32>) -> Result<(), Box<dyn Error>> {
    for answer in client.enqueue_all(shelf.into_iter().map(read::new)).await {
        answer?;
    }
    Ok(())
}

/// chord(count_one.s(book, shelf) for book in shelf)(print_total.s(shelf)): the last one enqueues what comes then.
#[job(queue = "books")]
async fn count_one(book: u32, shelf: Vec<u32>, books: State<Books>, client: State<Client>) -> JobResult {
    let words = books.text(book).await?.split_whitespace().count();
    books.put(book, words).await?; // by the book's number, so that twice is once
    if books.has_all(&shelf).await? {
        client.enqueue(print_total::new(shelf)).await?;
    }
    Ok(())
}

#[job(queue = "books")]
async fn print_total(shelf: Vec<u32>, books: State<Books>) -> JobResult {
    let total = books.total(&shelf).await?;
    books.print_once(&shelf, total).await?; // two that end at once may both be the last
    Ok(())
}

mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        io,
        sync::Mutex,
    };

    use worker_core::{Registry, testing::TestQueue};

    use super::*;

    /// A database of books, shared by all workers.
    #[derive(Default)]
    pub(super) struct Books {
        words: Mutex<BTreeMap<u32, usize>>,
        printed: Mutex<Vec<usize>>,
        shelves: Mutex<BTreeSet<Vec<u32>>>,
        /// The book that cannot be read the first time.
        torn: Mutex<Option<u32>>,
    }

    impl Books {
        pub(super) async fn text(&self, book: u32) -> io::Result<String> {
            if self.torn.lock().unwrap().take_if(|torn| *torn == book).is_some() {
                return Err(io::Error::other("a page is missing"));
            }
            Ok("word ".repeat(book as usize))
        }

        pub(super) async fn put(&self, book: u32, words: usize) -> io::Result<()> {
            self.words.lock().unwrap().insert(book, words);
            Ok(())
        }

        pub(super) async fn has_all(&self, shelf: &[u32]) -> io::Result<bool> {
            Ok(shelf.iter().all(|book| self.words.lock().unwrap().contains_key(book)))
        }

        pub(super) async fn total(&self, shelf: &[u32]) -> io::Result<usize> {
            Ok(shelf.iter().map(|book| self.words.lock().unwrap()[book]).sum())
        }

        pub(super) async fn print_once(&self, shelf: &[u32], total: usize) -> io::Result<()> {
            if self.shelves.lock().unwrap().insert(shelf.to_vec()) {
                self.printed.lock().unwrap().push(total);
            }
            Ok(())
        }
    }

    fn books(torn: Option<u32>) -> (TestQueue, std::sync::Arc<Books>) {
        let registry = Registry::new().with::<read>().with::<count>().with::<count_one>().with::<print_total>();
        let books = std::sync::Arc::new(Books { torn: Mutex::new(torn), ..Books::default() });
        (TestQueue::builder().registry(registry).state_arc(std::sync::Arc::clone(&books)).build(), books)
    }

    #[tokio::test]
    async fn a_group_of_chains_runs_each_step_after_the_one_before() {
        let (mut t, books) = books(Some(2));
        read_all(&t.client(), 1..=3).await.unwrap();
        let run = t.drain().await;
        assert_eq!(run.summary(), "6 succeeded, 1 retried, 0 dead");
        assert_eq!(*books.words.lock().unwrap(), BTreeMap::from([(1, 1), (2, 2), (3, 3)]));
        let steps = run.of::<count>().map(|execution| execution.id.to_string());
        assert!(steps.into_iter().all(|id| id.ends_with("-count")));
    }

    #[tokio::test]
    async fn a_chords_end_comes_after_all_its_parts_and_has_its_effect_once() {
        let (mut t, books) = books(Some(2));
        let shelf = vec![1, 2, 3];
        for book in shelf.clone() {
            t.client().enqueue(count_one::new(book, shelf.clone())).await.unwrap();
        }
        // A part that runs twice makes the end come twice.
        t.client().enqueue(count_one::new(3, shelf).delay(minutes(10))).await.unwrap();
        let run = t.drain().await;
        assert_eq!(run.summary(), "6 succeeded, 1 retried, 0 dead");
        assert_eq!(run.of::<print_total>().count(), 2);
        assert_eq!(*books.printed.lock().unwrap(), [6]);
    }
}
