/** The one exception a person is meant to see: what went wrong, and how to mend it. One line each. */
export class DemoError extends Error {
  readonly hint: string;

  constructor(message: string, hint: string) {
    super(oneLine(message));
    this.name = "DemoError";
    this.hint = oneLine(hint);
  }
}

function oneLine(text: string): string {
  return text.trim().replace(/\s+/g, " ");
}
