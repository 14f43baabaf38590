/** Stand-in for the system's document picker: the person chooses what the test laid out, or nothing. */
export const chosen: { files: { name: string; uri: string }[] | null } = { files: null };

export async function getDocumentAsync() {
  return chosen.files ? { canceled: false, assets: chosen.files } : { canceled: true, assets: null };
}
