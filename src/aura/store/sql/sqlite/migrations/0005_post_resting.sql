-- Older workers name it in their lists.
DROP INDEX runs_listed;
